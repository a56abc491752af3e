# intent_ref: access.routing
"""Routes with a gate in front. A route cannot be declared without saying which permission it asks for.

Handlers take the request and answer with bytes; between the router and them there is the gate and nothing else. FastAPI keeps
the list of routes and serves their description.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from access.gate import Gate
from access.http.headers import command_identity
from access.http.operations import Operation, operation_id
from access.http.problems import Problem
from access.http.request_keys import ANSWERS_KEPT, KeyUse, OwnKeys, has_key
from access.principal import Access, Principal
from access.roles import Permission
from domain.values import is_tenant_id

API_PREFIX: Final = "/api/v1"
_PATH_VALUE_CHARACTERS_MAX: Final = 255

TenantEndpoint = Callable[[Request, Access], Awaitable[Response]]
PlatformEndpoint = Callable[[Request, Principal], Awaitable[Response]]
PublicEndpoint = Callable[[Request], Awaitable[Response]]


class BareRoute(APIRoute):
    """A route whose endpoint takes the request and gives the response, without FastAPI's layers between."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = _bare(endpoint)


class GuardedRoutes:
    """Declares the routes of one resource on `router`, each with its operation; `gate` stands before all but the public ones."""

    def __init__(self, gate: Gate | None, tag: str, *, prefix: str = API_PREFIX) -> None:
        self.router = APIRouter(prefix=prefix, tags=[tag], route_class=BareRoute)
        self._gate, self._prefix = gate, prefix

    def tenant(
        self, method: str, path: str, permission: Permission, **details: Any
    ) -> Callable[[TenantEndpoint], TenantEndpoint]:
        """A route that works in one tenant."""
        assert permission.in_tenant, f"{permission.name} is not about one tenant"
        gate = self._require_gate()
        use, takes_keys = _key_use(method, details)

        def declare(endpoint: TenantEndpoint) -> TenantEndpoint:
            async def guarded(request: Request) -> Response:
                return await endpoint(request, await gate.authorise(request, permission))

            async def keyed(request: Request) -> Response:
                access = await gate.authorise(request, permission)
                if not has_key(request):
                    return await endpoint(request, access)
                body = await request.body()
                return await gate.keys.answer(
                    use, body, access.tenant_id, lambda: command_identity(request, access.tenant_id, access.principal, body),
                    lambda: endpoint(request, access),
                )  # fmt: skip

            way = keyed if takes_keys else guarded
            way.__doc__ = endpoint.__doc__
            self._add(way, method, path, permission, details)
            return endpoint

        return declare

    def platform(
        self, method: str, path: str, permission: Permission, **details: Any
    ) -> Callable[[PlatformEndpoint], PlatformEndpoint]:
        """A route about tenants themselves."""
        assert not permission.in_tenant, f"{permission.name} is about one tenant"
        gate = self._require_gate()
        use, takes_keys = _key_use(method, details)
        assert "{tenant_id}" in path or not takes_keys, "an answer is kept for a tenant: without one, a route keeps keys itself"

        def declare(endpoint: PlatformEndpoint) -> PlatformEndpoint:
            async def guarded(request: Request) -> Response:
                return await endpoint(request, await gate.authenticate(request, permission))

            async def keyed(request: Request) -> Response:
                principal = await gate.authenticate(request, permission)
                tenant_id = request.path_params["tenant_id"]
                if not has_key(request) or not is_tenant_id(tenant_id):
                    return await endpoint(request, principal)
                body = await request.body()
                return await gate.keys.answer(
                    use, body, tenant_id, lambda: command_identity(request, tenant_id, principal, body),
                    lambda: endpoint(request, principal),
                )  # fmt: skip

            way = keyed if takes_keys else guarded
            way.__doc__ = endpoint.__doc__
            self._add(way, method, path, permission, details)
            return endpoint

        return declare

    def public(self, method: str, path: str, **details: Any) -> Callable[[PublicEndpoint], PublicEndpoint]:
        """A route that tells nothing worth guarding."""

        def declare(endpoint: PublicEndpoint) -> PublicEndpoint:
            assert not _key_use(method, details)[1], "an answer is kept for a tenant: a public route keeps keys itself"
            self._add(endpoint, method, path, None, details)
            return endpoint

        return declare

    def _require_gate(self) -> Gate:
        assert self._gate is not None, "only public routes do without a gate"
        return self._gate

    def _add(
        self, endpoint: Callable[..., Any], method: str, path: str, permission: Permission | None, details: dict[str, Any]
    ) -> None:
        details.setdefault("description", (endpoint.__doc__ or details["summary"]).strip())
        operation = Operation(method, self._prefix + path, permission, **details)
        endpoint.quantum_operation = operation  # type: ignore[attr-defined]
        self.router.add_api_route(
            path,
            endpoint,
            methods=[method],
            summary=operation.summary,
            status_code=operation.answers[0].status,
            response_class=Response,
            name=operation_id(method, operation.path),
            operation_id=operation_id(method, operation.path),
        )


def _key_use(method: str, details: dict[str, Any]) -> tuple[KeyUse, bool]:
    """How idempotency keys are to be obeyed for a route, and whether that is to be done in front of it."""
    use: KeyUse = details.get("key", ANSWERS_KEPT)
    return use, method == "POST" and not isinstance(use, OwnKeys)


def operation_of(route: object) -> Operation | None:
    """What a route promises; None for routes that were not declared here."""
    return getattr(getattr(route, "endpoint", None), "quantum_operation", None)


def mount(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Puts the routes of `routers` into the application's own list, where a request finds them in one step."""
    for router in routers:
        app.router.routes.extend(router.routes)


def describe(app: FastAPI) -> None:
    """Lets `/openapi.json` say what the routes' operations promise."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = openapi_document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of everything that was declared here."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
    )
    declared = [(route, operation) for route in app.routes if (operation := operation_of(route)) is not None]
    models: dict[type[BaseModel], None] = {model: None for _, operation in declared for model in operation.models}
    references, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    of_model = {model: references[model, "validation"] for model in models}
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas.get("$defs", {}))
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "`quantum token` makes one."}
    }
    for route, operation in declared:
        tags = [str(tag) for tag in getattr(route, "tags", ())]
        document["paths"][operation.path][operation.method.lower()] = operation.described(tags, of_model)
    document["servers"] = [{"url": "/", "description": "This server"}]
    return document


class QuickHeaders(Headers):
    """A request's headers, each found in one step: a request is asked for a dozen, of which it has few."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._first: dict[bytes, bytes] = dict(reversed(self._list))

    def __getitem__(self, key: str) -> str:
        return self._first[key.lower().encode("latin-1")].decode("latin-1")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower().encode("latin-1") in self._first

    def get(self, key: str, default: Any = None) -> Any:
        """The first value; `default` where there is none."""
        found = self._first.get(key.lower().encode("latin-1"))
        return default if found is None else found.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        """All values, in their order."""
        return super().getlist(key) if key in self else []


class WholeRequest(Request):
    """A request whose body mostly comes in one piece, and then costs no generator to read."""

    @property
    def headers(self) -> Headers:
        """The request's headers."""
        if not hasattr(self, "_headers"):
            self._headers = QuickHeaders(self.scope)
        return self._headers

    async def body(self) -> bytes:
        """The whole body; `Edge` bounds it. Raises `ClientDisconnect`."""
        if not hasattr(self, "_body"):
            pieces = []
            more = True
            while more:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                pieces.append(message.get("body", b""))
                more = message.get("more_body", False)
            self._body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return self._body


def _bare(endpoint: PublicEndpoint) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for value in scope["path_params"].values():
            if len(value) > _PATH_VALUE_CHARACTERS_MAX or "\0" in value:
                raise Problem("not-found", "Nothing can have such an id.")
        response = await endpoint(WholeRequest(scope, receive, send))
        await response(scope, receive, send)

    return app
