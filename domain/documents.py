# intent_ref: domain.documents
"""States as the documents that answers carry: what a write answers is what a read finds once it has caught up."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from domain.execution import Execution, PlannedStep, StepRun
from domain.intent import Intent, IntentVersion
from domain.module import Action, Module, RetryPolicy, Transport
from domain.tenant import Tenant
from domain.values import IntentId, TenantId


@lru_cache(maxsize=256)
def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`; microseconds only where there are any, as the log writes them."""
    text = at.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else at.astimezone(UTC).isoformat()[:-6] + "Z"


def tenant_document(tenant: Tenant) -> dict[str, Any]:
    """A tenant as answers show it."""
    return {
        "id": tenant.tenant_id,
        "name": tenant.name,
        "status": tenant.status,
        "created_at": timestamp(tenant.created_at),
        "updated_at": timestamp(tenant.updated_at),
    }


def intent_document(tenant_id: TenantId, intent: Intent) -> dict[str, Any]:
    """An intent with its current version's definition."""
    return {
        "id": intent.intent_id,
        "name": intent.name,
        "version": intent.current.version,
        "tenant_id": tenant_id,
        "status": intent.status,
        "definition": intent.current.definition,
        "description": intent.description,
        "labels": intent.labels,
        "created_at": timestamp(intent.created_at),
        "updated_at": timestamp(intent.updated_at),
    }


def intent_version_document(intent_id: IntentId, version: IntentVersion) -> dict[str, Any]:
    """One version of an intent's definition."""
    return {
        "intent_id": intent_id,
        "version": version.version,
        "definition": version.definition,
        "created_at": timestamp(version.created_at),
        "rolled_back_to": version.rolled_back_to,
    }


def module_document(module: Module, *, built_in: bool = False) -> dict[str, Any]:
    """A module; `built_in` marks those that come with the platform and belong to no tenant."""
    return {
        "name": module.name,
        "actions": [action_document(action) for action in module.actions],
        "transport": transport_document(module.transport),
        "created_at": timestamp(module.created_at),
        "updated_at": timestamp(module.updated_at),
        "built_in": built_in,
    }


def action_document(action: Action) -> dict[str, Any]:
    """An action of a module; `timeout` in seconds."""
    return {
        "name": action.name,
        "input_schema": action.input_schema,
        "output_schema": action.output_schema,
        "timeout": action.timeout_seconds,
        "retry": None if action.retry is None else retry_document(action.retry),
    }


def retry_document(retry: RetryPolicy) -> dict[str, Any]:
    """How often an attempt may be made, and the waits between."""
    return {
        "attempts_max": retry.attempts_max,
        "initial_seconds": retry.initial_seconds,
        "backoff": retry.backoff,
        "cap_seconds": retry.cap_seconds,
    }


def transport_document(transport: Transport) -> dict[str, Any]:
    """How a module is reached."""
    return {"kind": transport.kind, "url": transport.url, "plugin": transport.plugin}


def execution_document(tenant_id: TenantId, execution: Execution) -> dict[str, Any]:
    """An execution with all its steps, in the plan's order."""
    return {
        "id": execution.execution_id,
        "execution_id": execution.execution_id,
        "intent_id": execution.intent_id,
        "intent_name": execution.intent_name,
        "version": execution.version,
        "tenant_id": tenant_id,
        "status": execution.status,
        "target": execution.target,
        "inputs": execution.inputs,
        "error": execution.error,
        "started_at": timestamp(execution.started_at),
        "completed_at": _timestamp_or_none(execution.completed_at),
        "updated_at": timestamp(execution.updated_at),
        "steps": [step_document(step, execution.runs[step.id]) for step in execution.steps],
    }


def step_document(step: PlannedStep, run: StepRun) -> dict[str, Any]:
    """A step and how far it has come."""
    return {
        "id": step.id,
        "action": step.action,
        "status": run.status,
        "attempts": run.attempts,
        "depends_on": list(step.depends_on),
        "result": run.result,
        "error": run.error,
        "started_at": _timestamp_or_none(run.started_at),
        "completed_at": _timestamp_or_none(run.completed_at),
    }


def _timestamp_or_none(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)
