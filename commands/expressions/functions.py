# intent_ref: commands.expressions
"""The functions of expressions: CEL's standard ones, and of its extension for texts what templates need.

Each takes the run it works for, then its arguments; a method's first argument is what it is called on.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import jsonschema_rs

from commands.expressions.faults import EvaluationFault
from commands.expressions.values import Run, check_is_whole, duration_text, integer, kind_of, timestamp_text

PATTERN_CHARS_MAX = 256
_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_SPAN = re.compile(r"([+-]?)((?:(?:\d{1,12}(?:\.\d{1,9})?|\.\d{1,9})(?:h|ms|us|ns|m|s))+)|([+-]?)0", re.ASCII)
_SPAN_PART = re.compile(r"([\d.]+)(h|ms|us|ns|m|s)", re.ASCII)
_MICROSECONDS = {"h": 3_600_000_000.0, "m": 60_000_000.0, "s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
_INTEGER_TEXT = re.compile(r"-?\d{1,19}", re.ASCII)
_REAL_TEXT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_PATTERN_BYTES_MAX = 262_144
_COMPILING = 2_000

Function = Callable[..., Any]


def _wants(value: Any, kind: type, name: str, wanted: str) -> None:
    if type(value) is not kind:
        raise EvaluationFault(f"`{name}` needs {wanted}, and was given {kind_of(value)}.")


def _texts(name: str, *values: Any) -> None:
    for value in values:
        _wants(value, str, name, "a text")


def _size(run: Run, value: Any) -> int:
    if type(value) in (str, list, dict):
        if type(value) is dict:
            check_is_whole(value)
        return len(value)
    raise EvaluationFault(f"`size` needs a text, a list or an object, and was given {kind_of(value)}.")


def _contains(run: Run, text: Any, part: Any) -> bool:
    _texts("contains", text, part)
    run.charge_text(len(text))
    return part in text


def _starts_with(run: Run, text: Any, part: Any) -> bool:
    _texts("startsWith", text, part)
    run.charge_text(len(part))
    return bool(text.startswith(part))


def _ends_with(run: Run, text: Any, part: Any) -> bool:
    _texts("endsWith", text, part)
    run.charge_text(len(part))
    return bool(text.endswith(part))


def _matches(run: Run, text: Any, pattern: Any) -> bool:
    _texts("matches", text, pattern)
    if len(pattern) > PATTERN_CHARS_MAX:
        raise EvaluationFault(f"A pattern may have {PATTERN_CHARS_MAX} characters.")
    # Rust's engine takes at most the product of both. Compiling is paid once a run, whether or not an earlier run did it.
    run.charge(1 + len(text) * len(pattern) // 32)
    if pattern not in run.patterns:
        run.charge(_COMPILING)
        run.patterns.add(pattern)
    matcher = _matcher(pattern)
    if matcher is None:
        raise EvaluationFault("The pattern is no regular expression, or too large; there is no looking around or back.")
    return bool(matcher.is_valid(text))


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Any:
    """Rust's regular expressions, whose time is linear in the text (docs.rs/regex), as a JSON Schema's `pattern`."""
    options = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES_MAX, dfa_size_limit=_PATTERN_BYTES_MAX)
    try:
        return jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=options)
    except (jsonschema_rs.ValidationError, ValueError):
        return None


def _lower(run: Run, text: Any) -> str:
    _texts("lowerAscii", text)
    run.charge_text(len(text))
    return "".join([chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in text])


def _upper(run: Run, text: Any) -> str:
    _texts("upperAscii", text)
    run.charge_text(len(text))
    return "".join([chr(ord(char) - 32) if "a" <= char <= "z" else char for char in text])


def _trim(run: Run, text: Any) -> str:
    _texts("trim", text)
    run.charge_text(len(text))
    return str(text.strip())


def _split(run: Run, text: Any, separator: Any) -> list[str]:
    _texts("split", text, separator)
    run.charge(1 + (text.count(separator) if separator else len(text)))
    return text.split(separator) if separator else list(text)


def _join(run: Run, parts: Any, separator: Any = "") -> str:
    _wants(parts, list, "join", "a list of texts")
    run.charge(len(parts))
    _texts("join", separator, *parts)
    run.charge_text(sum(map(len, parts)) + len(separator) * len(parts))
    return str(separator.join(parts))


def _replace(run: Run, text: Any, old: Any, new: Any) -> str:
    _texts("replace", text, old, new)
    run.charge_text(len(text))
    run.charge_text(len(text) + text.count(old) * len(new))
    return str(text.replace(old, new))


def _substring(run: Run, text: Any, start: Any, end: Any = None) -> str:
    _texts("substring", text)
    end = len(text) if end is None else end
    _wants(start, int, "substring", "whole numbers as its places")
    _wants(end, int, "substring", "whole numbers as its places")
    if not 0 <= start <= end <= len(text):
        raise EvaluationFault(f"`substring` from {start} to {end} is outside of a text of {len(text):,} characters.")
    run.charge_text(end - start)
    return str(text[start:end])


def _int(run: Run, value: Any) -> int:
    kind = type(value)
    if kind is int:
        return integer(value)
    if kind is float and -(2.0**63) <= value < 2.0**63:
        return int(value)
    if kind is str and _INTEGER_TEXT.fullmatch(value):
        return integer(int(value))
    if kind is datetime:
        since: timedelta = value - _EPOCH
        return since // timedelta(seconds=1)
    raise EvaluationFault(f"`int` cannot make an integer of {'this number' if kind is float else kind_of(value)}.")


def _double(run: Run, value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    if type(value) is str and len(value) <= 64 and _REAL_TEXT.fullmatch(value):
        return float(value)
    raise EvaluationFault(f"`double` cannot make a number of {kind_of(value)}{' like this' if type(value) is str else ''}.")


def _string(run: Run, value: Any) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return repr(value).removesuffix(".0").replace("nan", "NaN")
    if kind is datetime:
        return timestamp_text(value)
    if kind is timedelta:
        return duration_text(value)
    raise EvaluationFault(f"`string` cannot make a text of {kind_of(value)}.")


def _bool(run: Run, value: Any) -> bool:
    if type(value) is bool:
        return value
    if value in ("true", "false", "True", "False", "TRUE", "FALSE", "t", "f", "1", "0") and type(value) is str:
        return value[0] in "tT1"
    raise EvaluationFault(f"`bool` cannot make true or false of {kind_of(value)}{' like this' if type(value) is str else ''}.")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _timestamp(run: Run, value: Any) -> datetime:
    if type(value) is datetime:
        return value
    try:
        if type(value) is int:
            return _EPOCH + timedelta(seconds=value)
        if type(value) is str and len(value) < 64 and _RFC_3339.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise EvaluationFault("`timestamp` needs a time as RFC 3339 says, such as 2026-01-31T09:00:00Z.")


def _duration(run: Run, value: Any) -> timedelta:
    if type(value) is timedelta:
        return value
    match = _SPAN.fullmatch(value) if type(value) is str and len(value) < 64 else None
    if match is None:
        raise EvaluationFault("`duration` needs a span such as 90s, 1h30m or 250ms.")
    parts = _SPAN_PART.findall(match.group(2) or "")
    microseconds = sum(float(number) * _MICROSECONDS[unit] for number, unit in parts)
    try:
        return timedelta(microseconds=-microseconds if match.group(1) == "-" else microseconds)
    except OverflowError:
        raise EvaluationFault("This duration is too long.") from None


def _getter(name: str, of_timestamp: Callable[[datetime], int], of_duration: Callable[[timedelta], int] | None) -> Function:
    def get(run: Run, value: Any) -> int:
        if type(value) is datetime:
            return of_timestamp(value)
        if type(value) is timedelta and of_duration is not None:
            return of_duration(value)
        raise EvaluationFault(f"`{name}` needs a timestamp, and was given {kind_of(value)}.")

    return get


def _whole(unit: timedelta) -> Callable[[timedelta], int]:
    return lambda span: int(span / unit)


FUNCTIONS: dict[str, tuple[Function, int, int]] = {
    "size": (_size, 1, 1),
    "contains": (_contains, 2, 2),
    "startsWith": (_starts_with, 2, 2),
    "endsWith": (_ends_with, 2, 2),
    "matches": (_matches, 2, 2),
    "lowerAscii": (_lower, 1, 1),
    "upperAscii": (_upper, 1, 1),
    "trim": (_trim, 1, 1),
    "split": (_split, 2, 2),
    "join": (_join, 1, 2),
    "replace": (_replace, 3, 3),
    "substring": (_substring, 2, 3),
    "int": (_int, 1, 1),
    "double": (_double, 1, 1),
    "string": (_string, 1, 1),
    "bool": (_bool, 1, 1),
    "dyn": (lambda run, value: value, 1, 1),
    "timestamp": (_timestamp, 1, 1),
    "duration": (_duration, 1, 1),
    "getFullYear": (_getter("getFullYear", lambda at: at.year, None), 1, 1),
    "getMonth": (_getter("getMonth", lambda at: at.month - 1, None), 1, 1),
    "getDate": (_getter("getDate", lambda at: at.day, None), 1, 1),
    "getDayOfMonth": (_getter("getDayOfMonth", lambda at: at.day - 1, None), 1, 1),
    "getDayOfWeek": (_getter("getDayOfWeek", lambda at: at.isoweekday() % 7, None), 1, 1),
    "getDayOfYear": (_getter("getDayOfYear", lambda at: at.timetuple().tm_yday - 1, None), 1, 1),
    "getHours": (_getter("getHours", lambda at: at.hour, _whole(timedelta(hours=1))), 1, 1),
    "getMinutes": (_getter("getMinutes", lambda at: at.minute, _whole(timedelta(minutes=1))), 1, 1),
    "getSeconds": (_getter("getSeconds", lambda at: at.second, _whole(timedelta(seconds=1))), 1, 1),
    "getMilliseconds": (_getter("getMilliseconds", lambda at: at.microsecond // 1000, _whole(timedelta(milliseconds=1))), 1, 1),
}  # fmt: skip
"""Every function: what it does, and the fewest and most arguments it takes. Times of day are in UTC."""
