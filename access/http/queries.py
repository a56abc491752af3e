# intent_ref: access.queries
"""Query strings and cursor pages: every parameter is declared, what is not is refused by name."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from access.http.problems import Problem
from domain.immutable import immutable
from domain.refusals import Fault

LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
_TEXT_MAX: Final = 500


@immutable
class Parameter:
    """A query parameter: its JSON Schema for the documentation, and how its text is read (`ValueError` tells what is wrong)."""

    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    repeats: bool = False


def text(name: str, description: str) -> Parameter:
    """A parameter of any text up to 500 characters."""

    def read(value: str) -> str:
        if not 1 <= len(value) <= _TEXT_MAX:
            raise ValueError(f"It must have 1 to {_TEXT_MAX} characters.")
        if "\0" in value:
            raise ValueError("It holds a NUL character.")
        return value

    return Parameter(name, description, {"type": "string", "minLength": 1, "maxLength": _TEXT_MAX}, read)


def choice(name: str, description: str, values: Sequence[str]) -> Parameter:
    """A parameter that is one of `values`."""

    def read(value: str) -> str:
        if value not in values:
            raise ValueError(f"It must be one of {', '.join(values)}.")
        return value

    return Parameter(name, description, {"type": "string", "enum": list(values)}, read)


def flag(name: str, description: str) -> Parameter:
    """A parameter that is `true` or `false`."""

    def read(value: str) -> bool:
        if value not in ("true", "false"):
            raise ValueError("It must be true or false.")
        return value == "true"

    return Parameter(name, description, {"type": "boolean"}, read)


def number(name: str, description: str, minimum: int, maximum: int, default: int | None = None) -> Parameter:
    """A whole number parameter."""

    def read(value: str) -> int:
        if not value.isascii() or not value.isdigit() or len(value) > 12 or not minimum <= int(value) <= maximum:
            raise ValueError(f"It must be a whole number from {minimum} to {maximum}.")
        return int(value)

    schema: dict[str, Any] = {"type": "integer", "minimum": minimum, "maximum": maximum}
    if default is not None:
        schema["default"] = default
    return Parameter(name, description, schema, read)


def moment(name: str, description: str) -> Parameter:
    """A parameter that is a time with its offset."""
    sentence = "It must be an RFC 3339 time with its offset, such as 2026-11-21T09:30:00Z."

    def read(value: str) -> datetime:
        try:
            at = datetime.fromisoformat(value)
            if at.tzinfo is None:
                raise ValueError(sentence)
            return at.astimezone(UTC)
        except (ValueError, OverflowError) as fault:
            raise ValueError(sentence) from fault

    return Parameter(name, description, {"type": "string", "format": "date-time"}, read)


LIMIT: Final = number("limit", "How many items a page has at most.", 1, LIMIT_MAX, LIMIT_DEFAULT)
CURSOR: Final = text("cursor", "Where the page begins: the `next_cursor` of the page before.")


def parse(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The values by name, None for what is not given (a list for what repeats). Raises `Problem` with every fault."""
    known = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Any] = {name: [] if parameter.repeats else None for name, parameter in known.items()}
    if not request.scope["query_string"]:
        return values
    faults: list[Fault] = []
    for name, value in request.query_params.multi_items():
        parameter = known.get(name)
        if parameter is None:
            expected = f"It takes {', '.join(known)}." if known else "It takes none."
            faults.append(Fault(f"/query/{name[:100]}", f"There is no such parameter here. {expected}", "unknown-parameter"))
            continue
        try:
            read = parameter.read(value)
        except ValueError as fault:
            faults.append(Fault(f"/query/{name}", str(fault), "invalid"))
            continue
        if parameter.repeats:
            values[name].append(read)
        elif values[name] is not None:
            faults.append(Fault(f"/query/{name}", "It may be given once.", "repeated"))
        else:
            values[name] = read
    if faults:
        raise Problem("validation-failed", "The query has faults; `errors` lists each with its place.", faults=faults[:100])
    return values


def page(request: Request, items: Sequence[bytes], next_cursor: str | None) -> Response:
    """A page of a list: ready JSON documents, the cursor of the next page, and a `Link` to it."""
    body = b'{"items":[' + b",".join(items) + b'],"next_cursor":' + orjson.dumps(next_cursor) + b"}"
    headers = {}
    if next_cursor is not None:
        query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        target = f"{request.url.path}?{urlencode([*query, ('cursor', next_cursor)])}"
        headers["Link"] = f'<{target}>; rel="next"'
    return Response(body, headers=headers, media_type="application/json")
