# intent_ref: read-api.artifacts
"""The route that gives a tenant what its steps have stored beside the log."""

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from access.gate import Gate
from access.http.operations import Answer
from access.http.queries import parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import ARTIFACTS_READ
from read_api.reading import missing

_SCHEMA: Final[dict[str, Any]] = {"description": "The bytes as they were stored: JSON, unless the artifact is of another type."}


class Described(Protocol):
    """What is known of an artifact: `size` in bytes, `sha256` in hexadecimal digits."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def sha256(self) -> str:
        """The checksum of the bytes."""
        ...

    @property
    def content_type(self) -> str:
        """The media type it was stored with."""
        ...


class Opened(Protocol):
    """An artifact, and its bytes in pieces; reading fails before the end of bytes that have changed."""

    @property
    def artifact(self) -> Described:
        """What is known of it."""
        ...

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes."""
        ...


class Artifacts(Protocol):
    """Where artifacts lie: the reading half of `modules.artifacts.store.ArtifactStore`. Raises `Problem` where it is away."""

    async def open(self, tenant_id: str, artifact_id: str) -> Opened | None:
        """The artifact; None where this tenant has none such."""
        ...


def artifacts_router(gate: Gate, artifacts: Artifacts) -> APIRouter:
    """`GET /artifacts/{artifact_id}`."""
    routes = GuardedRoutes(gate, "artifacts")

    @routes.tenant(
        "GET", "/artifacts/{artifact_id}", ARTIFACTS_READ, summary="Read an artifact",
        answers=(Answer(200, "The bytes.", headers=("ETag",), streams=("application/json", _SCHEMA)),),
    )  # fmt: skip
    async def read_artifact(request: Request, access: Access) -> Response:
        """What `{"$artifact": {"id", …}}` stands for in a result. `ETag` is its SHA-256; a cut connection means damaged bytes."""
        parse(request, ())
        artifact_id = request.path_params["artifact_id"]
        opened = await artifacts.open(access.tenant_id, artifact_id)
        if opened is None:
            raise missing("artifact", artifact_id)
        headers = {
            "ETag": f'"{opened.artifact.sha256}"',
            "Content-Length": str(opened.artifact.size),
            "Content-Type": opened.artifact.content_type,
            "Content-Disposition": "attachment",  # somebody else's bytes are never shown as a page of ours
        }
        return StreamingResponse(opened.chunks, 200, headers)

    return routes.router
