# intent_ref: write-api.modules
"""Routes that register, change and remove a tenant's modules."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import command_identity
from access.http.json_body import parse_object, validated
from access.http.json_schemas import schema_faults
from access.http.operations import Answer
from access.http.request_keys import STORES_AN_EVENT
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import MODULES_WRITE
from commands.handle import Outcome, Shell, handle
from commands.module import ChangeModule, ModuleCommand, RegisterModule, RemoveModule
from domain import module
from domain.documents import module_document
from domain.input_rules import CONCURRENCY_MAX, RATE_MAX, RATE_SECONDS_MIN
from domain.json_values import Faults
from domain.module import Modules, RetryPolicy
from domain.refusals import Fault, Invalid
from domain.step_policies import read_retry, read_seconds
from domain.values import ActionName, ModuleName
from write_api.writing import KEY_HEADERS, REPLAY, WRITTEN, Clock, envelope, gone, utc_now, written

_RETRY_KEYS: Final = {"attempts_max": "max_attempts", "initial_seconds": "initial_interval", "cap_seconds": "max_interval"}
"""Answers spell a policy out in seconds; what was read may be sent back."""
Seconds = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 86400}, {"type": "string"}, {"type": "null"}]}
    ),
]
Span = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": RATE_SECONDS_MIN, "maximum": 86400}, {"type": "string"}]}),
]
Retry = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 100},
                {
                    "type": "object",
                    "properties": {
                        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 100},
                        "initial_interval": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                        "backoff": {"type": "number", "minimum": 1, "maximum": 100},
                        "max_interval": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                    },
                },
                {"type": "null"},
            ]
        }
    ),
]
_EXAMPLE: Final[Any] = {
    "name": "docker",
    "actions": [{"name": "build-image", "input_schema": {"type": "object", "required": ["image"]}, "timeout": "10m", "retry": 3}],
    "transport": {"type": "http", "url": "https://builds.example.com/actions"},
}


def _address(value: Any) -> Any:
    """A bare URL stands for the HTTP transport to it, and the word `pull` for that transport."""
    if value == "pull":
        return {"type": "pull"}
    return {"type": "http", "url": value} if isinstance(value, str) else value


class TransportBody(BaseModel):
    """How the module is reached: `http` at `url`, `in-process` as the plug-in named `plugin`, or `pull`: its workers fetch work.

    With a `secret`, a reference such as `secret://name`, requests over HTTP are signed.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["http", "in-process", "pull"] = Field(validation_alias=AliasChoices("type", "kind"))
    url: str | None = Field(None, examples=["https://builds.example.com/actions"])
    plugin: str | None = None
    secret: str | None = Field(None, examples=["secret://builds-signing"])


class RateBody(BaseModel):
    """How often an action may be begun in the tenant: `max` at once, and as many again in every `per`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"max": 10, "per": "1s"}]})
    max: int = Field(ge=1, le=RATE_MAX)
    per: Span


class ActionBody(BaseModel):
    """What the module can do. `timeout` and `retry` hold where a step says nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(examples=["build-image"], json_schema_extra={"pattern": "^[A-Za-z0-9._-]{1,100}$"})
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    timeout: Seconds = None
    retry: Retry = None
    compensate: str | None = Field(None, examples=["remove-image"], description="The action that undoes this one.")
    rate: RateBody | None = None
    concurrency: int | None = Field(
        None, ge=1, le=CONCURRENCY_MAX, description="How many of it may be under way at once in the tenant."
    )


class ModuleDescription(BaseModel):
    """What a module can do from now on, and how it is reached."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_EXAMPLE]})
    name: str | None = None
    actions: list[ActionBody] = Field(json_schema_extra={"minItems": 1, "maxItems": 200})
    transport: Annotated[TransportBody, BeforeValidator(_address)]


class NewModule(BaseModel):
    """A module to register."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_EXAMPLE]})
    name: str = Field(examples=["docker"], json_schema_extra={"pattern": "^[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?$"})
    actions: list[ActionBody] = Field(json_schema_extra={"minItems": 1, "maxItems": 200})
    transport: Annotated[TransportBody, BeforeValidator(_address)]


_REGISTERED: Final = Answer(201, "The module.", documents.Module, headers=(*WRITTEN, "Location"), at_times=REPLAY)
_CHANGED: Final = Answer(200, "The module after the change.", documents.Module, headers=WRITTEN, at_times=REPLAY)


def modules_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """The routes under `/modules` that change something."""
    routes = GuardedRoutes(gate, "modules")

    async def obey(request: Request, access: Access, command: ModuleCommand, raw: bytes) -> Outcome[Modules]:
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        return await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))

    @routes.tenant(
        "POST", "/modules", MODULES_WRITE, summary="Register a module", body=NewModule, key=STORES_AN_EVENT,
        answers=(_REGISTERED,), refusals=(409,),
    )  # fmt: skip
    async def register_module(request: Request, access: Access) -> Response:
        """From then on its actions can be used in definitions. An action belongs to one module."""
        raw = await request.body()
        body = validated(NewModule, parse_object(raw))
        command = RegisterModule(
            name=ModuleName(body.name), actions=_actions(body.actions), transport=_transport(body.transport), at=clock()
        )
        outcome = await obey(request, access, command, raw)
        unasked = None if command.transport.url is None else {"state": "closed", "processes": []}
        document = {**_document(outcome, body.name), "circuit": unasked}
        return written(201, document, outcome, location=f"{API_PREFIX}/modules/{body.name}")

    @routes.tenant(
        "PUT", "/modules/{name}", MODULES_WRITE, summary="Change a module", body=ModuleDescription, headers=KEY_HEADERS,
        answers=(_CHANGED,), refusals=(409,),
    )  # fmt: skip
    async def change_module(request: Request, access: Access) -> Response:
        """Replaces its actions and transport. Executions that have begun keep the plan they began with."""
        raw = await request.body()
        body = validated(ModuleDescription, parse_object(raw))
        name = request.path_params["name"]
        if body.name not in (None, name):
            raise Invalid([Fault("/name", "A module keeps its name: leave it out, or repeat it.", "name-differs")])
        command = ChangeModule(
            name=ModuleName(name), actions=_actions(body.actions), transport=_transport(body.transport), at=clock()
        )
        outcome = await obey(request, access, command, raw)
        return written(200, _document(outcome, name), outcome)

    @routes.tenant(
        "DELETE", "/modules/{name}", MODULES_WRITE, summary="Remove a module", headers=KEY_HEADERS,
        answers=(gone("The module is removed."),),
    )  # fmt: skip
    async def remove_module(request: Request, access: Access) -> Response:
        """Its actions can no longer be used in definitions."""
        command = RemoveModule(name=ModuleName(request.path_params["name"]), at=clock())
        return written(204, None, await obey(request, access, command, b""))

    return routes.router


def _document(outcome: Outcome[Modules], name: str) -> dict[str, Any]:
    return module_document(outcome.state.by_name[name])


def _transport(body: TransportBody) -> module.Transport:
    return module.Transport(kind=body.type, url=body.url, plugin=body.plugin, secret=body.secret)


def _actions(bodies: list[ActionBody]) -> tuple[module.Action, ...]:
    """The actions as the domain knows them; raises `Invalid` for durations, policies and schemas that are none."""
    unreadable = Faults()
    faults: list[Fault] = []
    actions = []
    for index, body in enumerate(bodies):
        place = f"/actions/{index}"
        for key, schema in (("input_schema", body.input_schema), ("output_schema", body.output_schema)):
            if schema is not None and len(faults) < 100:
                faults += schema_faults(schema, f"{place}/{key}")
        timeout = None if body.timeout is None else read_seconds(body.timeout, f"{place}/timeout", unreadable)
        retry = None if body.retry is None else _retry(body.retry, f"{place}/retry", unreadable)
        per = None if body.rate is None else read_seconds(body.rate.per, f"{place}/rate/per", unreadable)
        actions.append(module.Action(
            ActionName(body.name), body.input_schema, body.output_schema, timeout, retry,
            compensate=None if body.compensate is None else ActionName(body.compensate),
            rate=None if body.rate is None or per is None else module.Rate(body.rate.max, per), concurrency=body.concurrency,
        ))  # fmt: skip
    faults += unreadable.listed
    if faults:
        raise Invalid(faults)
    return tuple(actions)


def _retry(value: Any, place: str, faults: Faults) -> RetryPolicy | None:
    if isinstance(value, dict):
        value = {_RETRY_KEYS.get(key, key): one for key, one in value.items()}
    return read_retry(value, place, faults)
