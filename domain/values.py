# intent_ref: domain.values
"""Names of things, as types: a bare string never stands for a tenant, a stream or a step."""

import re
from typing import NewType

TenantId = NewType("TenantId", str)
IntentId = NewType("IntentId", str)
ExecutionId = NewType("ExecutionId", str)
StepId = NewType("StepId", str)
ModuleName = NewType("ModuleName", str)
ActionName = NewType("ActionName", str)
SubscriptionId = NewType("SubscriptionId", str)
SecretId = NewType("SecretId", str)
StreamId = NewType("StreamId", str)
Version = NewType("Version", int)

_TENANT_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_MODULE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?", re.ASCII)


def is_tenant_id(text: str) -> bool:
    """True for a slug such as `tenant-123`: lower-case letters, digits and inner hyphens, 1 to 63 characters."""
    return _TENANT_ID.fullmatch(text) is not None


def is_module_name(text: str) -> bool:
    """True for names such as `registry.azure`: lower-case letters, digits, inner dots, hyphens, underscores; 1 to 100 of them."""
    return _MODULE_NAME.fullmatch(text) is not None


def tenant_stream(tenant_id: TenantId) -> StreamId:
    """The stream of what happened to a tenant as such."""
    return StreamId(f"tenant-{tenant_id}")


def intent_stream(intent_id: IntentId) -> StreamId:
    """The stream of an intent and all its versions."""
    return StreamId(f"intent-{intent_id}")


def modules_stream() -> StreamId:
    """The one stream of a tenant's modules: an action belongs to one module, so they are decided together."""
    return StreamId("modules")


def subscriptions_stream() -> StreamId:
    """The one stream of a tenant's subscriptions: there may be so many of them, so they are decided together."""
    return StreamId("subscriptions")


def pull_subscriptions_stream() -> StreamId:
    """The one stream of a tenant's pull subscriptions."""
    return StreamId("pull_subscriptions")


def custom_events_stream(execution_id: ExecutionId) -> StreamId:
    """The stream of what the steps of one execution say in the tenant's own words."""
    return StreamId(f"custom-{execution_id}")


def execution_stream(execution_id: ExecutionId) -> StreamId:
    """The stream of one execution."""
    return StreamId(f"execution-{execution_id}")
