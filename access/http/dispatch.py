# intent_ref: access.dispatch
"""Finds a declared route by the segments of its path and calls it: the short way, without the layers FastAPI puts between.

Whatever is not declared here (the page, the description, a wrong method or address) goes the long way, through FastAPI.
"""

from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from access.http.routing import operation_of

_ANY: Final = "{}"


class Dispatch:
    """The application behind `access.http.edge.Edge`, which answers the exceptions that come out of here."""

    def __init__(self, api: FastAPI) -> None:
        self._api: ASGIApp = api
        self._tree: dict[Any, Any] = {}
        for route in api.routes:
            if (operation := operation_of(route)) is not None:
                self._plant(operation.method, operation.path, route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._api(scope, receive, send)
            return
        (route, names), values = found
        scope["route"], scope["endpoint"], scope["app"] = route, route.endpoint, self._api
        scope["path_params"] = dict(zip(names, values, strict=True))
        try:
            await route.app(scope, receive, send)
        except ClientDisconnect:
            return

    def _plant(self, method: str, path: str, route: Any) -> None:
        node, names = self._tree, []
        for segment in path.split("/"):
            is_name = segment.startswith("{")
            if is_name:
                names.append(segment[1:-1])
            node = node.setdefault(_ANY if is_name else segment, {})
        node[(method,)] = (route, tuple(names))  # no segment of a path is a tuple

    def _find(self, scope: Scope) -> tuple[tuple[Any, tuple[str, ...]], list[str]] | None:
        node, values = self._tree, []
        for segment in scope["path"].split("/"):
            following = node.get(segment) if segment != _ANY else None
            if following is None:
                following = node.get(_ANY)
                if following is None or not segment:
                    return None
                values.append(segment)
            node = following
        found = node.get((scope["method"],))
        return None if found is None else (found, values)
