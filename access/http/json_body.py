# intent_ref: access.json-body
"""Reads a request's body as strict JSON: an object, of bounded depth, without what cannot be stored or kept exactly."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from access.http.problems import Problem
from domain.refusals import Fault

DEPTH_MAX: Final = 200  # orjson writes 254 levels at most, and what is stored is wrapped once more
_FAULTS_MAX: Final = 100
_MANY_DIGITS: Final = re.compile(rb"\d{19}")
_INTEGER_MIN, _INTEGER_MAX = -(1 << 63), (1 << 64) - 1

M = TypeVar("M", bound=BaseModel)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`.

    Raises `Problem`: `not-json`, or `validation-failed` for what is JSON and no object, nests too deep, holds NUL characters,
    or integers that do not fit 64 bits (they would be rounded without a word).
    """
    value = _loaded(raw)
    if not isinstance(value, dict):
        raise _invalid([Fault("", "The body must be a JSON object.", "not-an-object")])
    _check(value, raw)
    return value


def parse_value(raw: bytes) -> Any:
    """Any JSON value in `raw`; null where there is none. Raises `Problem` as `parse_object` does."""
    value = _loaded(raw) if raw else None
    _check(value, raw)
    return value


def _loaded(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        raise Problem("not-json", f"The body is not valid JSON: {fault}.") from fault


def _check(value: Any, raw: bytes) -> None:
    """Raises `Problem` for what is JSON and cannot be kept as it is."""
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _is_deeper_than(value, DEPTH_MAX):
        raise _invalid([Fault("", f"The body nests deeper than {DEPTH_MAX} levels.", "too-deep")])
    if b"\\u0000" in raw:
        faults = [Fault(pointer, "NUL characters cannot be stored.", "nul-character") for pointer in _with_nul(value)]
        if faults:
            raise _invalid(faults)
    if _MANY_DIGITS.search(raw):
        _check_integers(raw)


def validated(model: type[M], value: dict[str, Any]) -> M:
    """`value` as a `model`; raises `Problem` with every fault by its JSON pointer."""
    try:
        return model.model_validate(value)
    except ValidationError as fault:
        raise _invalid(
            [
                Fault(pointer(error["loc"]), _sentence(error["msg"]), error["type"].replace("_", "-"))
                for error in fault.errors(include_url=False, include_context=False, include_input=False)[:_FAULTS_MAX]
            ]
        ) from fault


async def read(request: Request, model: type[M]) -> M:
    """The body of `request` as a `model`; an empty body counts as `{}`."""
    raw = await request.body()
    return validated(model, parse_object(raw) if raw else {})


def pointer(path: tuple[int | str, ...]) -> str:
    """The RFC 6901 JSON pointer of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _invalid(faults: list[Fault]) -> Problem:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Problem("validation-failed", f"The body has {count}; `errors` lists each with its place.", faults=faults)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


def _is_deeper_than(value: Any, depth_max: int) -> bool:
    level = [value]
    for _ in range(depth_max):
        below: list[Any] = []
        for one in level:
            below.extend(child for child in (one.values() if isinstance(one, dict) else one) if isinstance(child, dict | list))
        if not below:
            return False
        level = below
    return True


_Path = tuple[Any, int | str] | None
"""(path of the parent, key): shares what is common, so that a body of many deep values costs no more than it weighs."""


def _walk(value: Any) -> Iterator[tuple[_Path, Any]]:
    """Every string, number, boolean and null with its path; keys come as values of their own path."""
    left: list[tuple[_Path, Any]] = [(None, value)]
    while left:
        path, one = left.pop()
        if isinstance(one, dict):
            for key, child in one.items():
                yield (path, key), key
                left.append(((path, key), child))
        elif isinstance(one, list):
            left.extend(((path, index), child) for index, child in enumerate(one))
        else:
            yield path, one


def _pointer_of(path: _Path) -> str:
    keys: list[int | str] = []
    while path is not None:
        path, key = path
        keys.append(key)
    return pointer(tuple(reversed(keys)))


def _with_nul(value: Any) -> list[str]:
    paths = islice((path for path, one in _walk(value) if isinstance(one, str) and "\0" in one), _FAULTS_MAX)
    return list(dict.fromkeys(_pointer_of(path).replace("\0", "\\u0000") for path in paths))


class _HugeInteger:
    pass


def _check_integers(raw: bytes) -> None:
    def integer(digits: str) -> object:
        if len(digits) > 20:
            return _HugeInteger()
        return 0 if _INTEGER_MIN <= int(digits) <= _INTEGER_MAX else _HugeInteger()

    value = json.loads(raw, parse_int=integer)
    paths = islice((path for path, one in _walk(value) if isinstance(one, _HugeInteger)), _FAULTS_MAX)
    sentence = "The integer does not fit 64 bits; send it as a string."
    faults = [Fault(_pointer_of(path), sentence, "integer-too-large") for path in paths]
    if faults:
        raise _invalid(faults)
