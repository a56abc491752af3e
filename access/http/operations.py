# intent_ref: access.openapi
"""What a route promises, said once: its answers, bodies and parameters, from which its OpenAPI description is built."""

import re
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, Final

from pydantic import BaseModel

from access.http import documents, problems
from access.http.headers import IDEMPOTENCY_KEY, REPLAYED
from access.http.queries import Parameter
from access.http.request_keys import ANSWERS_KEPT, KeptAnswers, KeyUse
from access.roles import Permission
from domain.immutable import immutable

_PATH_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")
_STRING: Final = {"type": "string"}
_TAGS: Final = {"type": "string", "minLength": 1}
_TOKEN: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{6,40}$"}
_TOKEN_OR_NOTHING: Final = {"type": "string", "pattern": "^([A-Za-z0-9_-]{6,40})?$"}
_SLUG: Final = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_ALWAYS: Final = (400, 401, 403, 422, 503)
_IN_PATH: Final = {
    "tenant_id": "The tenant's id.",
    "intent_id": "The intent's id.",
    "execution_id": "The execution's id.",
    "step": "The step's id; of a step that is done for each of a list, one item's, such as `deploy[2]`.",
    "signal": "The name of the signal.",
    "version": "The number of a version.",
    "name": "The module's name.",
    "subscription_id": "The subscription's id.",
    "token": "The `callback_token` that came with the request to the module.",
    "artifact_id": "The artifact's id.",
    "lease_token": "The `lease_token` that came with the work.",
    "type": "The name of a type of event.",
    "position": "The `position` of an event.",
}
_REQUEST_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "X-Tenant-Id": ("Which tenant is meant, where the token covers several.", _SLUG),
    "Idempotency-Key": (
        "The same key with the same body has one effect and gets the first answer again, where that was a success; with another"
        " body it is refused.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    ),
    "If-Match": ('The `ETag` of the version this change is based on, such as `"3"`, or `*`.', _TAGS),
    "If-None-Match": ("The `ETag` the client has: the answer is 304 while it still holds.", _TAGS),
    "Quantum-Min-Position": (
        "A `Quantum-Position` of an earlier answer: the read waits up to 2 seconds until it has seen that write.",
        _TOKEN,
    ),
    "Last-Event-ID": ("The id of the last event seen; the stream goes on after it.", _TOKEN_OR_NOTHING),
}
_ANSWER_HEADERS: Final = {
    "ETag": "The version, as an entity tag.",
    "Idempotency-Replayed": "`true` when this answer was given before, under the same `Idempotency-Key`.",
    "Link": 'The next page, with `rel="next"`.',
    "Location": "Where the new thing is.",
    "Quantum-Position": "The position in the log that covers this write, for `Quantum-Min-Position`.",
    "RateLimit": "The limit that was reached, with what is left (`r`) and the seconds until there is more (`t`).",
    "RateLimit-Policy": "The limit that was reached, with its quota (`q`) and, for a rate, its window in seconds (`w`).",
    "Retry-After": "Seconds to wait before the next try.",
    "WWW-Authenticate": "`Bearer`, and what is wrong with the token.",
}

_REFUSAL_HEADERS: Final = {
    401: ("WWW-Authenticate",), 429: ("Retry-After", "RateLimit-Policy", "RateLimit"), 503: ("Retry-After",)
}  # fmt: skip


@immutable
class Answer:
    """An answer that is no error; `headers` always come with it, `at_times` now and then."""

    status: int
    description: str
    model: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    at_times: tuple[str, ...] = ()
    streams: tuple[str, dict[str, Any]] | None = None
    """Another media type, which streams items of this schema."""
    texts: tuple[str, ...] = ()
    """Other media types, of text."""


@immutable
class Operation:
    """A route: what it asks of its caller, what it takes and what it may answer."""

    method: str
    path: str
    permission: Permission | None
    summary: str
    description: str
    answers: tuple[Answer, ...]
    refusals: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    query: tuple[Parameter, ...] = ()
    headers: tuple[str, ...] = ()
    required_headers: frozenset[str] = field(default_factory=frozenset)
    key: KeyUse = ANSWERS_KEPT
    """How `Idempotency-Key` is obeyed, which any POST takes."""

    @property
    def statuses(self) -> tuple[int, ...]:
        """The statuses of all its errors."""
        if self.permission is None:
            return self.refusals
        implied = [*_ALWAYS]
        if "{" in self.path:
            implied.append(404)
        if self.method in ("POST", "PUT", "PATCH"):
            implied.append(413)
        if self.method == "POST" and isinstance(self.key, KeptAnswers):
            implied.append(409)
        return tuple(sorted({*implied, *self.refusals}))

    @property
    def models(self) -> list[type[BaseModel]]:
        """The models its description refers to."""
        answered = [answer.model for answer in self.answers if answer.model is not None]
        return [documents.Problem, *answered, *([self.body] if self.body is not None else [])]

    def described(self, tags: Sequence[str], references: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
        """The OpenAPI operation object; `references` gives the schema of each model."""
        described: dict[str, Any] = {
            "tags": list(tags),
            "summary": self.summary,
            "description": self._full_description(),
            "operationId": operation_id(self.method, self.path),
            "parameters": self._parameters(),
            "responses": {
                **{str(answer.status): _answer(self._repeatable(answer), references) for answer in self.answers},
                **{str(status): _refusal(status, references) for status in self.statuses},
            },
            "security": [] if self.permission is None else [{"bearer": []}],
        }
        if self.body is not None:
            described["requestBody"] = {
                "required": self.body_required,
                "content": {"application/json": {"schema": references[self.body]}},
            }
        return described

    def _full_description(self) -> str:
        if self.permission is None:
            return f"{self.description}\n\nNeeds no token."
        roles = ", ".join(f"`{role}`" for role in sorted(self.permission.roles))
        return f"{self.description}\n\nPermission `{self.permission.name}`: {roles}."

    def _parameters(self) -> list[dict[str, Any]]:
        in_path = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": _IN_PATH[name],
                "schema": {"type": "integer", "minimum": 1} if name == "version" else {"type": "string", "minLength": 1},
            }
            for name in _PATH_PARAMETER.findall(self.path)
        ]
        in_query = [
            {"name": one.name, "in": "query", "required": False, "description": one.description, "schema": dict(one.schema)}
            for one in self.query
        ]
        in_headers = [
            {
                "name": name,
                "in": "header",
                "required": name in self.required_headers,
                "description": _REQUEST_HEADERS[name][0],
                "schema": _REQUEST_HEADERS[name][1],
            }
            for name in self._request_headers()
        ]
        return [*in_path, *in_query, *in_headers]

    def _repeatable(self, answer: Answer) -> Answer:
        if self.method != "POST" or REPLAYED in answer.at_times:
            return answer
        return replace(answer, at_times=(*answer.at_times, REPLAYED))

    def _request_headers(self) -> list[str]:
        names = list(self.headers)
        if self.method == "POST" and IDEMPOTENCY_KEY not in names:
            names.append(IDEMPOTENCY_KEY)
        if self.permission is not None and self.permission.in_tenant:
            names.insert(0, "X-Tenant-Id")
        return names


def operation_id(method: str, path: str) -> str:
    """A stable name for clients that are generated."""
    words = re.sub(r"[^a-z0-9]+", "_", path.removeprefix("/api/v1").lower()).strip("_")
    return f"{method.lower()}_{words}"


def _answer(answer: Answer, references: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    headers = [*((name, True) for name in answer.headers), *((name, False) for name in answer.at_times)]
    if headers:
        described["headers"] = {name: _header(name, required=required) for name, required in headers}
    content: dict[str, Any] = {}
    if answer.model is not None:
        content["application/json"] = {"schema": references[answer.model]}
    if answer.streams is not None:
        media_type, item = answer.streams
        content[media_type] = {"itemSchema": item}
    content |= {media_type: {"schema": _STRING} for media_type in answer.texts}
    if content:
        described["content"] = content
    return described


def _refusal(status: int, references: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    codes = [code for code, kind in problems.KINDS.items() if kind.status == status]
    described: dict[str, Any] = {
        "description": "One of " + ", ".join(f"`{code}`" for code in codes) + ".",
        "content": {problems.MEDIA_TYPE: {"schema": references[documents.Problem]}},
    }
    if expected := _REFUSAL_HEADERS.get(status):
        described["headers"] = {name: _header(name, required=True) for name in expected}
    return described


def _header(name: str, *, required: bool) -> dict[str, Any]:
    return {"description": _ANSWER_HEADERS[name], "required": required, "schema": _STRING}
