# intent_ref: tests.platforms
"""Every operation of the API as its own description lists it, with a request for each that would be accepted."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

PROBLEM_KEYS = {"type", "title", "status", "detail", "instance", "trace_id", "code"}
METHODS = ("get", "post", "put", "delete", "patch", "head", "options", "trace")


@dataclass(frozen=True)
class Operation:
    """One operation of `/openapi.json`. `body` is the example of its request body, None where it takes none."""

    method: str
    path: str
    path_names: tuple[str, ...]
    query_names: tuple[str, ...]
    header_names: tuple[str, ...]
    body: Any
    body_required: bool
    statuses: frozenset[int]
    is_public: bool
    takes_anything: bool = False
    """True where any JSON will do for a body."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations_of(document: dict[str, Any]) -> list[Operation]:
    """All of them, so that a new route is in every test that goes through this list."""
    found = []
    for path, methods in document["paths"].items():
        for method in METHODS:
            if (described := methods.get(method)) is None:
                continue
            names: dict[str, list[str]] = {"path": [], "query": [], "header": []}
            for parameter in described.get("parameters", ()):
                names[parameter["in"]].append(parameter["name"])
            request_body = described.get("requestBody", {})
            schema = request_body.get("content", {}).get("application/json", {}).get("schema")
            found.append(
                Operation(
                    method.upper(), path, tuple(names["path"]), tuple(names["query"]), tuple(names["header"]),
                    None if schema is None else example_of(schema, document), request_body.get("required", False),
                    frozenset(int(status) for status in described["responses"]), described.get("security") == [],
                    schema is not None and not {"type", "properties", "anyOf"} & resolved(schema, document).keys(),
                )
            )  # fmt: skip
    return found


def example_of(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """The example that a schema gives, or one put together from those of its required properties."""
    schema = resolved(schema, document)
    if schema.get("examples"):
        return copy.deepcopy(schema["examples"][0])
    assert schema.get("type") == "object", f"no example: {schema}"
    return {name: example_of(schema["properties"][name], document) for name in schema.get("required", ())}


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the one it refers to."""
    if "$ref" not in schema:
        return schema
    target: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return resolved(target, document)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value inside a JSON value, the whole of it included."""
    yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from places(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from places(child, (*path, index))


def value_at(value: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path."""
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: tuple[str | int, ...], by: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return by
    value = copy.deepcopy(value)
    value_at(value, path[:-1])[path[-1]] = by
    return value


def renamed(value: Any, path: tuple[str | int, ...], key: str) -> Any:
    """A copy in which the member at a path has another key."""
    value = copy.deepcopy(value)
    parent = value_at(value, path[:-1])
    parent[key] = parent.pop(path[-1])
    return value


def assert_problem(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The RFC 9457 document of a refusal, which tells nothing about the inside."""
    about = (answer.request.method, str(answer.request.url)[:200], answer.status_code, answer.text[:2000])
    assert 400 <= answer.status_code < 500, about
    assert not statuses or answer.status_code in statuses, about
    assert answer.headers["Content-Type"] == "application/problem+json", about
    document: dict[str, Any] = answer.json()
    assert document.keys() >= PROBLEM_KEYS, about
    assert document["status"] == answer.status_code, about
    assert document["type"].endswith(document["code"]), about
    assert all(fault.keys() >= {"pointer", "detail"} for fault in document.get("errors", ())), about
    tells_nothing(answer)
    return document


def tells_nothing(answer: httpx.Response) -> None:
    """Nothing in an answer that only somebody who looks at the source could know."""
    for word in ("Traceback", 'File "', "asyncpg", "pydantic", "orjson", "site-packages", "SELECT ", "quantum_app", "uvicorn"):
        assert word not in answer.text, (word, answer.text[:2000])
    assert "server" not in answer.headers


def raw_json(value: Any) -> bytes:
    """JSON as it is, with lone surrogates and NUL written as escapes."""
    return json.dumps(value).encode("ascii")
