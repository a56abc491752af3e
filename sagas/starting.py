# intent_ref: sagas.schedules
"""Executions that nobody asks for: their ids, what may stand in their way, and how that is written down."""

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from commands.expressions import ExpressionFailed
from domain import tenant
from domain.documents import timestamp
from domain.refusals import Invalid, Refusal, TenantIsSuspended
from domain.values import TenantId, tenant_stream
from event_store.ids import derived_id
from event_store.store import EventStore

_NAMESPACE = UUID("2f0b3a3e-6a3b-5f4e-9f2e-91c3f4f0a6d5")
_FAULTS_SHOWN_MAX = 5


def start_id(kind: str, *cause: str) -> UUID:
    """The id of a start, and of the command behind it: the same cause gives the same, so it starts one execution."""
    return derived_id(_NAMESPACE, "\n".join((kind, *cause)))


async def check_tenant(store: EventStore, tenant_id: TenantId) -> None:
    """Raises `TenantIsSuspended`: nothing starts by itself in a tenant that may change nothing."""
    found = await store.load(tenant_id, tenant_stream(tenant_id), tenant.evolve)
    if found.state is not None and found.state.status == "suspended":
        raise TenantIsSuspended(tenant_id)


def error_of(fault: Refusal | ExpressionFailed, at: datetime, **more: Any) -> str:
    """Why nothing was started, as JSON: what operators see."""
    code = getattr(fault, "code", "expression-failed")
    told: dict[str, Any] = {"code": code, "message": str(fault)[:1_000], "at": timestamp(at)}
    if isinstance(fault, Invalid):
        shown = fault.faults[:_FAULTS_SHOWN_MAX]
        told["faults"] = [{"pointer": one.pointer, "detail": one.detail[:500]} for one in shown]
    return orjson.dumps({**told, **more}).decode()
