# intent_ref: domain.documents
"""States as the documents that answers carry: what a write answers is what a read finds once it has caught up."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any

from domain.execution import Execution
from domain.intent import Intent, IntentVersion
from domain.module import Action, Module, RetryPolicy, Transport
from domain.plan import PlannedStep, item_run, undoing_run
from domain.pull_subscription import PullSubscription
from domain.runs import StepRun, StepStatus, Waiting
from domain.subscription import Subscription, Terms
from domain.tenant import Tenant
from domain.values import IntentId, StepId, TenantId

SHOWN_MAX = 100
"""How many of what may be thousands a document of an execution shows."""
_WAITING_SHOWN = ("roles", "message", "signal", "execution_id", "intent", "version")
_NEW = StepRun()


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
        "rate": None if action.rate is None else {"max": action.rate.max, "per": action.rate.per_seconds},
        "concurrency": action.concurrency,
        "compensate": action.compensate,
    }


def retry_document(retry: RetryPolicy) -> dict[str, Any]:
    """How often an attempt may be made, and the waits between."""
    return {
        "attempts_max": retry.attempts_max,
        "initial_seconds": retry.initial_seconds,
        "backoff": retry.backoff,
        "cap_seconds": retry.cap_seconds,
        "jitter": retry.jitter,
        "non_retryable": list(retry.non_retryable),
    }


def transport_document(transport: Transport) -> dict[str, Any]:
    """How a module is reached."""
    return {"kind": transport.kind, "url": transport.url, "plugin": transport.plugin, "secret": transport.secret}


def subscription_document(subscription: Subscription) -> dict[str, Any]:
    """A subscription as answers show it: never with its secret, nor the id of that."""
    start, disabled = subscription.start, None
    if subscription.disabled_reason is not None:
        disabled = {"reason": subscription.disabled_reason, "detail": subscription.disabled_detail}
    return {
        "id": subscription.subscription_id,
        **subscription_terms(subscription.terms),
        "status": subscription.status,
        "disabled": disabled,
        "from": _start(start.position, start.time),
        "former_secret_until": _timestamp_or_none(subscription.former_until),
        "created_at": timestamp(subscription.created_at),
        "updated_at": timestamp(subscription.updated_at),
        "version": subscription.version,
    }


def subscription_terms(terms: Terms) -> dict[str, Any]:
    """What a change of a subscription may change. Of headers the names: their values are told to nobody."""
    return {
        "url": terms.url,
        "types": list(terms.types),
        "subjects": list(terms.subjects),
        "description": terms.description,
        "order": terms.order,
        "max_in_flight": terms.max_in_flight,
        "headers": list(terms.headers),
    }


def pull_subscription_document(subscription: PullSubscription) -> dict[str, Any]:
    """A pull subscription as answers show it."""
    terms = subscription.terms
    return {
        "id": subscription.subscription_id,
        "types": list(terms.types),
        "subjects": list(terms.subjects),
        "description": terms.description,
        "order": terms.order,
        "lease": terms.lease_seconds,
        "max_deliveries": terms.deliveries_max,
        "max_unacknowledged": terms.unacknowledged_max,
        "created_at": timestamp(subscription.created_at),
        "updated_at": timestamp(subscription.updated_at),
        "version": subscription.version,
    }


def _start(position: int | None, time: datetime | None) -> str:
    if position == 0:
        return "beginning"
    if position is not None:
        return "position"
    return "now" if time is None else timestamp(time)


def execution_document(tenant_id: TenantId, execution: Execution) -> dict[str, Any]:
    """An execution with all its steps, in the plan's order. Lists that may grow long show their first `SHOWN_MAX`."""
    options = execution.options
    return {
        "id": execution.execution_id,
        "execution_id": execution.execution_id,
        "intent_id": execution.intent_id,
        "intent_name": execution.intent_name,
        "version": execution.version,
        "tenant_id": tenant_id,
        "status": execution.status,
        "queued": execution.is_queued and not execution.is_over,
        "target": execution.target,
        "inputs": execution.inputs,
        "priority": options.priority,
        "business_key": options.business_key,
        "deadline_at": _timestamp_or_none(options.deadline_at),
        "parent": None if options.parent is None else {"execution_id": options.parent.execution_id, "step": options.parent.step},
        "started_by": options.started_by,
        "result": execution.result,
        "error": execution.error,
        "reason": execution.reason,
        "not_undone": list(execution.not_undone[:SHOWN_MAX]),
        "resources": [
            {"type": one.type, "id": one.resource_id, "step": one.step} for one in islice(execution.resources.values(), SHOWN_MAX)
        ],
        "started_at": timestamp(execution.started_at),
        "completed_at": _timestamp_or_none(execution.completed_at),
        "updated_at": timestamp(execution.updated_at),
        "steps": [step_document(step, execution.runs) for step in execution.steps],
    }


def step_document(step: PlannedStep, runs: Mapping[StepId, StepRun]) -> dict[str, Any]:
    """A step and how far it has come, with its items where it is done for each of a list, and its undoing."""
    run = runs[step.id]
    return {
        "id": step.id,
        "action": step.action,
        "status": run.status,
        "attempts": run.attempts,
        "depends_on": list(step.depends_on),
        "result": run.result,
        "error": run.error,
        "fell_back": run.fell_back,
        "waiting_for": waiting_document(run.waiting),
        "due_at": _timestamp_or_none(run.due_at),
        "items": None if run.items is None else _items_document(step.id, len(run.items), runs),
        "compensation": _compensation_document(runs.get(undoing_run(step.id))),
        "started_at": _timestamp_or_none(run.started_at),
        "completed_at": _timestamp_or_none(run.completed_at),
    }


def _items_document(step: StepId, total: int, runs: Mapping[StepId, StepRun]) -> dict[str, Any]:
    """How many items there are, how many of them are in which status, and the first ones. A result is in the step's own."""
    statuses: dict[str, int] = {}
    for index in range(total):
        status = _item_status(runs.get(item_run(step, index), _NEW))
        statuses[status] = statuses.get(status, 0) + 1
    shown = [item_run(step, index) for index in range(min(total, SHOWN_MAX))]
    return {"total": total, "statuses": statuses, "runs": [item_document(run_id, runs) for run_id in shown]}


def item_document(run_id: StepId, runs: Mapping[StepId, StepRun]) -> dict[str, Any]:
    """One item of a step and how far it has come."""
    run = runs.get(run_id, _NEW)
    return {
        "id": run_id,
        "status": _item_status(run),
        "attempts": run.attempts,
        "error": run.error,
        "fell_back": run.fell_back,
        "waiting_for": waiting_document(run.waiting),
        "due_at": _timestamp_or_none(run.due_at),
        "compensation": _compensation_document(runs.get(undoing_run(run_id))),
        "started_at": _timestamp_or_none(run.started_at),
        "completed_at": _timestamp_or_none(run.completed_at),
    }


def _item_status(run: StepRun) -> StepStatus:
    """An item that had not begun has not been cancelled either, whether or not there was an earlier turn that forgot it."""
    return "pending" if run.status == "cancelled" and run.started_at is None and not run.attempts else run.status


def waiting_document(waiting: Waiting | None) -> dict[str, Any] | None:
    """What a run waits for: `roles` and `message` of an approval, the name of a signal, or the child's id, intent and version."""
    if waiting is None:
        return None
    detail = {key: waiting.detail[key] for key in _WAITING_SHOWN if key in waiting.detail}
    return {"reason": waiting.reason, "on_due": waiting.on_due, **detail}


def _compensation_document(run: StepRun | None) -> dict[str, Any] | None:
    """How far the undoing of a step or an item has come; None unless it has begun."""
    if run is None or run.started_at is None:
        return None
    return {
        "status": run.status,
        "attempts": run.attempts,
        "error": run.error,
        "due_at": _timestamp_or_none(run.due_at),
        "started_at": timestamp(run.started_at),
        "completed_at": _timestamp_or_none(run.completed_at),
    }


def _timestamp_or_none(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)
