# intent_ref: write-api.workflows
"""The route that makes workflows: intents that others run as a step.

A workflow is an intent and nothing else: it has versions, is revised, executed and archived as one. The label `kind=workflow`
says that it is meant to be run by others; any intent may be, by its name.
"""

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import command_identity, entity_tag
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.request_keys import STORES_AN_EVENT
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_WRITE
from commands.handle import Shell, handle
from commands.intent import CreateIntent
from domain.documents import intent_document
from domain.refusals import DefinitionInvalid, Fault
from domain.values import IntentId
from domain.workflows import WORKFLOW_LABEL
from write_api.intents import Definition
from write_api.writing import REPLAY, WRITTEN, Clock, envelope, utc_now, written

TARGET: Final = "workflow"
"""The target of a workflow that names none: what runs it has one."""
_EXAMPLE: Final = {"name": "release", "steps": documents.DEFINITION_EXAMPLE["steps"]}


class NewWorkflow(BaseModel):
    """A workflow to make: a whole `definition`, or its `steps` with `inputs` (a JSON Schema) and `outputs` where it has any."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_EXAMPLE]})
    name: str = Field(examples=["release"], json_schema_extra={"minLength": 1, "maxLength": 200})
    definition: Definition | None = None
    steps: list[dict[str, Any]] | None = Field(None, max_length=500)
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    description: str | None = None
    labels: dict[str, str] = Field(default_factory=dict, examples=[{"team": "web"}])


_CREATED: Final = Answer(
    201, "The workflow, at version 1.", documents.Intent, headers=(*WRITTEN, "ETag", "Location"), at_times=REPLAY
)


def workflows_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /workflows`."""
    routes = GuardedRoutes(gate, "workflows")

    @routes.tenant(
        "POST", "/workflows", INTENTS_WRITE, summary="Create a workflow", body=NewWorkflow, key=STORES_AN_EVENT,
        answers=(_CREATED,), refusals=(409,),
    )  # fmt: skip
    async def create_workflow(request: Request, access: Access) -> Response:
        """Makes an intent with the label `kind=workflow`; it is changed and executed under `/intents`."""
        raw = await request.body()
        body = validated(NewWorkflow, parse_object(raw))
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        key, value = WORKFLOW_LABEL
        command = CreateIntent(
            intent_id=IntentId(str(identity.command_id)), name=body.name, definition=_definition(body),
            description=body.description, labels={**body.labels, key: value}, at=clock(),
        )  # fmt: skip
        try:
            outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        except DefinitionInvalid as refusal:
            if body.definition is not None:
                raise
            places = [Fault(one.pointer.removeprefix("/definition"), one.detail, one.code) for one in refusal.faults]
            raise DefinitionInvalid(places) from refusal
        made = outcome.state
        tag = entity_tag(made.current.version, made.status)
        location = f"{API_PREFIX}/workflows/{made.intent_id}"
        return written(201, intent_document(access.tenant_id, made), outcome, tag=tag, location=location)

    return routes.router


def _definition(body: NewWorkflow) -> Any:
    parts = {"steps": body.steps, "inputs": body.inputs, "outputs": body.outputs}
    said = {name: part for name, part in parts.items() if part is not None}
    if body.definition is None:
        return {"target": TARGET, "steps": [], **said}
    if said:
        faults = [Fault(f"/{name}", "The `definition` says this already.", "extra-forbidden") for name in said]
        raise Problem("validation-failed", "A workflow has a `definition`, or its parts, and not both.", faults=faults)
    return body.definition
