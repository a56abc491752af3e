# intent_ref: write-api.plans
"""The plan of an intent without its execution. It is decided as a start would be, and nothing is written."""

from dataclasses import fields
from typing import Any, Final

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.plan_documents import Plan
from access.http.queries import choice, parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_READ
from commands.execution import StartExecution
from commands.execution_start import begun, startable
from commands.handle import Shell, actions_of
from commands.kept_inputs import judged_inputs
from domain import intent
from domain.documents import retry_document
from domain.execution_events import ExecutionStarted, StepExpanded, StepStarted, StepWaiting
from domain.plan import Control, PlannedStep
from domain.plan_graph import DrawnStep, critical_path, dot, mermaid, topological_order
from domain.values import ExecutionId, IntentId, intent_stream
from write_api.writing import Clock, utc_now

MERMAID: Final = "text/vnd.mermaid"
GRAPHVIZ: Final = "text/vnd.graphviz"
_FORMAT: Final = choice("format", "How the plan comes, whatever `Accept` says.", ("json", "mermaid", "dot"))
_DRAWINGS: Final = {"mermaid": (mermaid, MERMAID), "dot": (dot, GRAPHVIZ)}
_OF_MEDIA_TYPE: Final = {"application/json": "json", MERMAID: "mermaid", GRAPHVIZ: "dot"}


class Draft(BaseModel):
    """What would be executed, with what. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"inputs": {"replicas": 3}}, {}]})
    version: int | None = Field(None, ge=1, lt=1 << 31, description="The version to plan; the current one unless said.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Values the steps may refer to.")


def plans_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /intents/{intent_id}/plan`."""
    routes = GuardedRoutes(gate, "intents")

    @routes.tenant(
        "POST", "/intents/{intent_id}/plan", INTENTS_READ, summary="Plan an execution without starting it", body=Draft,
        body_required=False, query=(_FORMAT,), refusals=(409,),
        answers=(Answer(200, "What an execution would do now.", Plan, texts=(MERMAID, GRAPHVIZ)),),
    )  # fmt: skip
    async def plan_intent(request: Request, access: Access) -> Response:
        """A dry run: refused exactly where `execute` would be. As a picture with `Accept: text/vnd.mermaid` or
        `text/vnd.graphviz`, or `format`."""
        wanted = parse(request, (_FORMAT,))["format"] or _accepted(request.headers.get("Accept", ""))
        raw = await request.body()
        body = validated(Draft, parse_object(raw) if raw else {})
        intent_id = IntentId(request.path_params["intent_id"])
        loaded = await shell.store.load(access.tenant_id, intent_stream(intent_id), intent.evolve)
        command = StartExecution(
            execution_id=ExecutionId(""), intent_id=intent_id, version=body.version, inputs=body.inputs,
            tenant_id=access.tenant_id, at=clock(),
        )  # fmt: skip
        catalogue = await actions_of(shell, access.tenant_id)
        start = startable(loaded.state, command, catalogue, shell.rules)
        events = begun(start, command, await judged_inputs(start, command, shell.inputs, access.tenant_id)).events
        started = events[0]
        assert isinstance(started, ExecutionStarted), "a start begins with the start"
        if wanted in _DRAWINGS:
            draw, media_type = _DRAWINGS[wanted]
            return Response(draw([drawn(step) for step in started.steps]), media_type=media_type)
        first = {event.step for event in events if isinstance(event, StepStarted | StepWaiting | StepExpanded)}
        return Response(orjson.dumps(plan_document(started, first)), media_type="application/json")

    return routes.router


def plan_document(started: ExecutionStarted, begun: set[Any]) -> dict[str, Any]:
    """The plan of a start; `begun` are the steps that begin with it."""
    pairs = [(str(step.id), step.depends_on) for step in started.steps]
    way, _ = critical_path(pairs)
    return {
        "intent_id": started.intent_id,
        "intent_name": started.intent_name,
        "version": started.version,
        "target": started.target,
        "inputs": started.inputs,
        "priority": 3 if started.options is None else started.options.priority,
        "steps": [{**_step(step), "begins_at_once": step.id in begun} for step in started.steps],
        "order": topological_order(pairs),
        "critical_path": {"steps": way, "length": len(way)},
    }


def _step(step: PlannedStep) -> dict[str, Any]:
    return {
        "id": step.id,
        "kind": _kind(step),
        "action": step.action,
        "module": step.module or None,
        "depends_on": list(step.depends_on),
        "parameters": step.parameters,
        "timeout_seconds": step.timeout_seconds,
        "retry": {
            **retry_document(step.retry),
            "jitter": step.retry.jitter,
            "non_retryable": list(step.retry.non_retryable),
        },
        "control": None if step.control is None else _said(step.control),
    }


def _kind(step: PlannedStep) -> str:
    if step.flow.work == "none":
        return step.flow.gates[-1].kind if step.flow.gates else "none"
    return step.flow.work


def _said(control: Control) -> dict[str, Any]:
    """What differs from saying nothing."""
    plain = Control()
    said = {field.name: getattr(control, field.name) for field in fields(control)}
    return {name: value for name, value in said.items() if value != getattr(plain, name)}


def drawn(step: PlannedStep) -> DrawnStep:
    """The step as it is drawn: a loop as a loop, whatever is done in it."""
    child, label = step.flow.child, str(step.action)
    if child is not None:
        label = child.intent if child.version is None else f"{child.intent}@{child.version}"
    return DrawnStep(step.id, step.depends_on, label, "foreach" if step.flow.foreach is not None else _kind(step))


def _accepted(accept: str) -> str:
    """The first format of ours that `Accept` names; JSON where it names none."""
    for part in accept.split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type in _OF_MEDIA_TYPE:
            return _OF_MEDIA_TYPE[media_type]
    return "json"
