# intent_ref: write-api.intents
"""Routes that change intents."""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import command_identity, entity_tag, expected_versions
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.request_keys import MAY_CHANGE_NOTHING, STORES_AN_EVENT
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_WRITE
from commands.handle import Outcome, Shell, handle
from commands.intent import (
    ActivateIntent,
    ArchiveIntent,
    CreateIntent,
    DeprecateIntent,
    IntentCommand,
    ReviseIntent,
    RollBackIntent,
)
from domain.documents import intent_document
from domain.intent import Intent, evolve
from domain.refusals import NotFound
from domain.values import IntentId, TenantId, intent_stream
from write_api.writing import KEY_HEADERS, REPLAY, WRITTEN, Clock, Nothing, envelope, gone, no_body, utc_now, written

_STEP_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["action"],
    "description": "Keys that are not listed here are parameters of the action.",
    "properties": {
        "action": {"type": "string", "minLength": 1, "maxLength": 100},
        "id": {"type": "string", "minLength": 1, "maxLength": 100, "description": "The action unless said."},
        "depends_on": {"type": "array", "items": {"type": "string"}, "description": "The step before unless said."},
        "timeout": {
            "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 86400}, {"type": "string"}],
            "description": "Seconds, or a duration such as `30s` or `5m`.",
        },
        "retry": {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 100}, {"type": "object"}],
            "description": "How many attempts may be made, or a policy.",
        },
    },
}
Definition = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "object",
            "required": ["target", "steps"],
            "properties": {
                "target": {"type": "string", "minLength": 1},
                "steps": {"type": "array", "items": _STEP_SCHEMA, "maxItems": 500},
            },
            "examples": [documents.DEFINITION_EXAMPLE],
        }
    ),
]


class NewIntent(BaseModel):
    """An intent to create."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"name": "deploy-web-app", "definition": documents.DEFINITION_EXAMPLE}]},
    )
    name: str = Field(examples=["deploy-web-app"], json_schema_extra={"minLength": 1, "maxLength": 200})
    definition: Definition
    description: str | None = None
    labels: dict[str, str] = Field(default_factory=dict, examples=[{"team": "web"}])


class Revision(BaseModel):
    """The next version. `description` and `labels` stay as they are where they are left out."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"definition": documents.DEFINITION_EXAMPLE}]}
    )
    definition: Definition
    description: str | None = None
    labels: dict[str, str] | None = None


class RollBack(BaseModel):
    """The version whose definition is to hold again."""

    model_config = ConfigDict(extra="forbid", strict=True)
    version: int = Field(ge=1, lt=1 << 31, examples=[1])


_CHANGED: Final = Answer(200, "The intent after the change.", documents.Intent, headers=(*WRITTEN, "ETag"), at_times=REPLAY)
_CREATED: Final = Answer(
    201, "The intent, at version 1.", documents.Intent, headers=(*WRITTEN, "ETag", "Location"), at_times=REPLAY
)


def intents_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """The routes under `/intents` that change something."""
    routes = GuardedRoutes(gate, "intents")

    async def obey(request: Request, access: Access, command: IntentCommand, raw: bytes) -> Outcome[Intent]:
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        return await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))

    @routes.tenant(
        "POST", "/intents", INTENTS_WRITE, summary="Create an intent", body=NewIntent, key=STORES_AN_EVENT,
        answers=(_CREATED,), refusals=(409,),
    )  # fmt: skip
    async def create_intent(request: Request, access: Access) -> Response:
        """Its name must be free in the tenant. An intent without steps may be kept and versioned, not executed."""
        raw = await request.body()
        body = validated(NewIntent, parse_object(raw))
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        intent_id = IntentId(str(identity.command_id))
        command = CreateIntent(
            intent_id=intent_id, name=body.name, definition=body.definition, description=body.description,
            labels=body.labels, at=clock(),
        )  # fmt: skip
        outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        location = f"{API_PREFIX}/intents/{intent_id}"
        return _answer(201, access.tenant_id, outcome, location=location)

    @routes.tenant(
        "PUT", "/intents/{intent_id}", INTENTS_WRITE, summary="Revise an intent", body=Revision,
        headers=("If-Match", *KEY_HEADERS), required_headers=frozenset({"If-Match"}), answers=(_CHANGED,),
        refusals=(409, 412, 428),
    )  # fmt: skip
    async def revise_intent(request: Request, access: Access) -> Response:
        """Makes a new version. `If-Match` says which version the change is based on; a stale one is refused with 412."""
        versions = expected_versions(request)
        raw = await request.body()
        body = validated(Revision, parse_object(raw))
        intent_id = IntentId(request.path_params["intent_id"])
        command = ReviseIntent(
            intent_id=intent_id, definition=body.definition,
            expected_version=await _one_of(shell, access.tenant_id, intent_id, versions),
            description=body.description, labels=body.labels, at=clock(),
        )  # fmt: skip
        return _answer(200, access.tenant_id, await obey(request, access, command, raw))

    @routes.tenant(
        "POST", "/intents/{intent_id}/rollback", INTENTS_WRITE, summary="Roll an intent back", body=RollBack,
        headers=("If-Match",), key=STORES_AN_EVENT, answers=(_CHANGED,), refusals=(409, 412),
    )  # fmt: skip
    async def roll_back_intent(request: Request, access: Access) -> Response:
        """Makes a new version with the definition of an old one. `If-Match` may be sent and then counts."""
        versions = expected_versions(request) if "if-match" in request.headers else None
        raw = await request.body()
        body = validated(RollBack, parse_object(raw))
        intent_id = IntentId(request.path_params["intent_id"])
        command = RollBackIntent(
            intent_id=intent_id, version=body.version,
            expected_version=await _one_of(shell, access.tenant_id, intent_id, versions), at=clock(),
        )  # fmt: skip
        return _answer(200, access.tenant_id, await obey(request, access, command, raw))

    @routes.tenant(
        "POST", "/intents/{intent_id}/deprecate", INTENTS_WRITE, summary="Deprecate an intent", body=Nothing,
        body_required=False, key=MAY_CHANGE_NOTHING, answers=(_CHANGED,), refusals=(409,),
    )  # fmt: skip
    async def deprecate_intent(request: Request, access: Access) -> Response:
        """Marks it as out of favour; it still works."""
        raw = await no_body(request)
        command = DeprecateIntent(intent_id=IntentId(request.path_params["intent_id"]), at=clock())
        return _answer(200, access.tenant_id, await obey(request, access, command, raw))

    @routes.tenant(
        "POST", "/intents/{intent_id}/activate", INTENTS_WRITE, summary="Activate an intent", body=Nothing,
        body_required=False, key=MAY_CHANGE_NOTHING, answers=(_CHANGED,), refusals=(409,),
    )  # fmt: skip
    async def activate_intent(request: Request, access: Access) -> Response:
        """Takes a deprecation back."""
        raw = await no_body(request)
        command = ActivateIntent(intent_id=IntentId(request.path_params["intent_id"]), at=clock())
        return _answer(200, access.tenant_id, await obey(request, access, command, raw))

    @routes.tenant(
        "DELETE", "/intents/{intent_id}", INTENTS_WRITE, summary="Archive an intent", headers=KEY_HEADERS,
        answers=(gone("The intent is archived."),),
    )  # fmt: skip
    async def archive_intent(request: Request, access: Access) -> Response:
        """Its history stays and can be read; its name is free again."""
        command = ArchiveIntent(intent_id=IntentId(request.path_params["intent_id"]), at=clock())
        return written(204, None, await obey(request, access, command, b""))

    return routes.router


def _answer(status: int, tenant_id: TenantId, outcome: Outcome[Intent], *, location: str | None = None) -> Response:
    intent = outcome.state
    tag = entity_tag(intent.current.version, intent.status)
    return written(status, intent_document(tenant_id, intent), outcome, tag=tag, location=location)


async def _one_of(shell: Shell, tenant_id: TenantId, intent_id: IntentId, versions: tuple[int, ...] | None) -> int | None:
    """The one version to expect: where `If-Match` names several, the one that is current. Raises `NotFound`, `Problem`."""
    if versions is None:
        return None
    if len(versions) == 1:
        return versions[0]
    loaded = await shell.store.load(tenant_id, intent_stream(intent_id), evolve)
    if loaded.state is None:
        raise NotFound("intent", intent_id)
    current = loaded.state.current.version
    if current not in versions:
        sentence = f"The intent {intent_id} is at version {current}, which `If-Match` does not name by a strong tag."
        raise Problem("precondition-failed", sentence)
    return current
