# intent_ref: commands.kept-values
"""Values that a decision makes and that are too large for the log: what loops and `outputs` come to, what children are given.

A decision is pure and can store nothing. So it notes what it has no room for; the shell keeps that beside the log, or learns why
it cannot be kept, and lets the same decision be made again, now with claims, or an error, in the place of what is large.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import orjson

from commands.expressions import ExpressionFailed
from domain.immutable import immutable
from domain.refusals import Invalid, Refusal
from domain.values import TenantId

T = TypeVar("T")
VALUE_BYTES_MAX: Final = 262_144
"""How large one value may be, as JSON, to go into the log as it is."""
DECISION_BYTES_MAX: Final = 16_777_216
"""How large the values of one decision may be together: it is one append, and that has a limit of its own."""
SMALL_BYTES_MAX: Final = 8_192
"""What goes into the log of a value for which the decision has no other room left."""


class ValueStore(Protocol):
    """Where values lie that are too large for the log. Every call raises `Invalid` for what cannot be kept or is not there,
    `ArtifactQuotaReached`, and `ArtifactsUnavailable` where the command may be sent again."""

    @property
    def inline_bytes_max(self) -> int:
        """How large inputs may be, as JSON, to go into the log as they are."""
        ...

    async def redeemed(self, tenant_id: TenantId, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with what the tenant's claims in them stand for."""
        ...

    async def kept(self, tenant_id: TenantId, value: Any, bytes_max: int) -> Any:
        """The value with claims in the place of what is large, `bytes_max` at most: of members of an object, of elements of a
        list, or one for all of it. The same value always leaves the same claims."""
        ...


class NotKept(ExpressionFailed):
    """A value is too large for the log and cannot be kept beside it either; `error` is that of the step that made it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__("", error["message"])
        self.error = error


@immutable
class Kept:
    """What stands in the log for a large value, or why it could not be kept."""

    value: Any = None
    error: dict[str, Any] | None = None


_NOTHING: Final[Mapping[str, Kept]] = {}


class Room:
    """The room that one decision has for values. `kept` has what was found too large before; `unkept`, by the same names, what
    is found so now, each with the bytes that may be left of it in the log."""

    __slots__ = ("kept", "unkept", "used_bytes")

    def __init__(self, kept: Mapping[str, Kept] = _NOTHING) -> None:
        self.kept, self.used_bytes = kept, 0
        self.unkept: dict[str, tuple[Any, int]] = {}

    def value(self, name: str, value: Any) -> Any:
        """`value`, or what is recorded in its place: None where that is still to be found. Raises `NotKept`.

        `name` is the value's own in this decision.
        """
        known = self.kept.get(name)
        if known is not None:
            if known.error is not None:
                raise NotKept(known.error)
            self.used_bytes += _size(known.value, VALUE_BYTES_MAX)
            return known.value
        size = _size(value, VALUE_BYTES_MAX)
        most = VALUE_BYTES_MAX if self.used_bytes + min(size, VALUE_BYTES_MAX) <= DECISION_BYTES_MAX else SMALL_BYTES_MAX
        self.used_bytes += min(size, most)
        if size <= most:
            return value
        self.unkept[name] = (value, most)
        return None

    def whole(self, pointer: str, value: Any) -> Any:
        """`value`, for which no claim could stand. Raises `ExpressionFailed` where there is no room left for it."""
        size = _size(value, DECISION_BYTES_MAX)
        if self.used_bytes + size > DECISION_BYTES_MAX:
            message = f"This and what begins together with it has more than {DECISION_BYTES_MAX:,} bytes. Let less begin at once."
            raise ExpressionFailed(pointer, message)
        self.used_bytes += size
        return value


async def with_kept(store: ValueStore | None, tenant_id: TenantId, room: Room, decide: Callable[[Room], T]) -> T:
    """What `decide` decides once all that is too large for the log is kept, or is known to find no place. `room` is that of a
    decision which has found something too large.

    Raises what `decide` raises, and `ArtifactsUnavailable`, where nothing was decided and the command may be sent again.
    """
    while True:
        kept = {**room.kept}
        for name, (value, most) in room.unkept.items():
            kept[name] = await _kept(store, tenant_id, value, most)
        room = Room(kept)
        decided = decide(room)
        if not room.unkept:
            return decided


async def _kept(store: ValueStore | None, tenant_id: TenantId, value: Any, bytes_max: int) -> Kept:
    if store is None:
        message = f"The value has more than {VALUE_BYTES_MAX:,} bytes, and there is no place beside the log for it."
        return Kept(error={"code": "artifact-too-large", "message": message})
    try:
        return Kept(await store.kept(tenant_id, value, bytes_max))
    except Invalid as refusal:
        return Kept(error={"code": refusal.faults[0].code, "message": refusal.faults[0].detail})
    except Refusal as refusal:
        return Kept(error={"code": refusal.code, "message": str(refusal)})


def _size(value: Any, enough: int) -> int:
    """How many bytes a value has as JSON; once it is clear that these are more than `enough`, no more are counted."""
    if not isinstance(value, list):
        return len(orjson.dumps(value))
    size = 1 + max(1, len(value))
    for one in value:
        size += len(orjson.dumps(one))
        if size > enough:
            break
    return size
