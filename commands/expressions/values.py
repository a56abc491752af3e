# intent_ref: commands.expressions
"""What values an expression works on: JSON, moments and spans of time; how they compare and what they weigh.

One law beyond CEL's, since JSON has one kind of number: an integer and a real may meet in arithmetic, and give a real.
"""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from commands.expressions.faults import RESULT_BYTES_MAX, WORK_MAX, EvaluationFault, WorkExceeded
from commands.expressions.lexer import INTEGER_MAX, INTEGER_MIN
from domain.json_values import text_fault

VALUE_DEPTH_MAX = 64
TEXT_CHARS_MAX = 1_048_576
ARTIFACT = "$artifact"
"""The only field of a claim, which stands for a value that is too large for the log."""
_CHARS_A_UNIT = 32
_KINDS: dict[type, str] = {
    bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object", type(None): "null",
    datetime: "a timestamp", timedelta: "a duration",
}  # fmt: skip


class Run:
    """One evaluation: the variables it sees, the work it may still make, the patterns it has paid for."""

    __slots__ = ("left", "patterns", "variables")

    def __init__(self, variables: dict[str, Any]) -> None:
        self.variables, self.left = variables, WORK_MAX
        self.patterns: set[str] = set()

    def charge(self, units: int) -> None:
        """Takes so much from what is left; raises `WorkExceeded`."""
        self.left -= units
        if self.left < 0:
            raise WorkExceeded

    def charge_text(self, chars: int) -> None:
        """Takes what making or reading so many characters costs."""
        if chars > TEXT_CHARS_MAX:
            raise EvaluationFault(f"A text of {chars:,} characters is too long; {TEXT_CHARS_MAX:,} is the most.")
        self.charge(1 + chars // _CHARS_A_UNIT)


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    return _KINDS.get(type(value), "no JSON value")


def is_claim(value: Any) -> bool:
    """True for what stands in the place of a value that is too large for the log."""
    claim = value.get(ARTIFACT) if type(value) is dict and len(value) == 1 else None
    return type(claim) is dict and type(claim.get("id")) is str


def check_is_whole(value: dict[str, Any]) -> None:
    """Raises `EvaluationFault` for the claim to an artifact: the value itself lies beside the log, where no expression looks."""
    if is_claim(value):
        size = value[ARTIFACT].get("size")
        weight = f"{size:,} bytes" if type(size) is int else "too many bytes"
        raise EvaluationFault(
            f"This value has {weight} and lies beside the log as an artifact: "
            "expressions can hand it on as a whole, not look inside."
        )


def integer(value: int) -> int:
    """An integer of 64 bits, as CEL has them; raises `EvaluationFault` for a larger one."""
    if INTEGER_MIN <= value <= INTEGER_MAX:
        return value
    raise EvaluationFault("The result does not fit into an integer of 64 bits.")


def are_equal(run: Run, left: Any, right: Any, depth: int = 0) -> bool:
    """CEL's equality: numbers by what they are worth, `true` is not 1, and what is of different kinds is unequal."""
    run.charge(1)
    one, other = type(left), type(right)
    if one is other:
        if one is list:
            if depth > VALUE_DEPTH_MAX:
                raise EvaluationFault(f"Values nested deeper than {VALUE_DEPTH_MAX} levels cannot be compared.")
            return len(left) == len(right) and all(are_equal(run, a, b, depth + 1) for a, b in zip(left, right, strict=True))
        if one is dict:
            if depth > VALUE_DEPTH_MAX:
                raise EvaluationFault(f"Values nested deeper than {VALUE_DEPTH_MAX} levels cannot be compared.")
            return len(left) == len(right) and all(
                key in right and are_equal(run, value, right[key], depth + 1) for key, value in left.items()
            )
        if one is str:
            run.charge_text(len(left))
        return bool(left == right)
    return one in (int, float) and other in (int, float) and bool(left == right)


def timestamp_text(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`."""
    return at.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def duration_text(span: timedelta) -> str:
    """Seconds with an `s`, such as `90s` or `0.25s`: the way CEL gives a duration to JSON."""
    microseconds = (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
    sign, microseconds = "-" if microseconds < 0 else "", abs(microseconds)
    fraction = f".{microseconds % 1_000_000:06d}".rstrip("0").rstrip(".")
    return f"{sign}{microseconds // 1_000_000}{fraction}s"


def plain(run: Run, value: Any, depth: int = 0) -> Any:
    """The value as JSON that the log can hold, in a copy; raises `EvaluationFault` for what JSON has not."""
    run.charge(1)
    kind = type(value)
    if kind is str:
        run.charge_text(len(value))
        if (fault := text_fault(value)) is not None:
            raise EvaluationFault(f"The result has {fault}.")
        return value
    if value is None or kind is bool or kind is int:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise EvaluationFault("The result is a number that is not finite, which JSON cannot say.")
        return value
    if depth >= VALUE_DEPTH_MAX:
        raise EvaluationFault(f"The result nests deeper than {VALUE_DEPTH_MAX} levels.")
    if kind is list:
        return [plain(run, item, depth + 1) for item in value]
    if kind is dict:
        return {_key(run, key): plain(run, item, depth + 1) for key, item in value.items()}
    if kind is datetime:
        return timestamp_text(value)
    if kind is timedelta:
        return duration_text(value)
    raise EvaluationFault("The result is no JSON value.")


def _key(run: Run, key: Any) -> str:
    if type(key) is not str:
        raise EvaluationFault(f"The result has an object with {kind_of(key)} as a key; JSON knows texts alone.")
    run.charge_text(len(key))
    if (fault := text_fault(key)) is not None:
        raise EvaluationFault(f"A key of the result has {fault}.")
    return key


def as_text(value: Any) -> str:
    """A plain value inside a text: texts as they are, everything else as JSON."""
    return value if type(value) is str else orjson.dumps(value).decode()


def size_fault(value: Any) -> str | None:
    """Why a plain value is too large to go on with, as a sentence."""
    size = len(orjson.dumps(value))
    if size <= RESULT_BYTES_MAX:
        return None
    return f"The result has {size:,} bytes as JSON, of at most {RESULT_BYTES_MAX:,}."
