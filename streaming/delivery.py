# intent_ref: streaming.delivery
"""What every transport does with a batch it has read: hands it over until it is dealt with, whatever that takes.

A batch that fails comes again, with growing pauses. When it has failed `attempts_max` times, its messages are tried one by one;
one that fails alone as well is written down as a dead letter and passed over, and those behind it go on. So one poisonous
message costs its group some seconds, and never the stream. What is no message's fault (the database or a broker is away)
is not counted: it is waited for, for as long as it takes.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import asyncpg
import structlog

from domain.immutable import immutable
from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from streaming.dead_letters import DeadLetter, DeadLetters
from streaming.transport import Handler, Message, TransportAway
from streaming.waiting import first_of

_AWAY: tuple[type[BaseException], ...] = (*DATABASE_FAULTS, StoreUnavailable, TransportAway)
_ABOUT_CONTENT: tuple[type[BaseException], ...] = (
    ValueError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""What the driver or the database says of a value: among the faults of a database, but it is the message that caused them."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads. `observe_delivery` gets the group, the number of messages, and when the last was recorded."""

    delivered: int = 0
    repeated_batches: int = 0
    dead_letters: int = 0
    redriven: int = 0
    unreadable: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    observe_delivery: Callable[[str, int, datetime], None] = field(default=lambda group, messages, recorded_at: None)


@immutable
class DeliveryLimits:
    """How patient a delivery is. With the defaults a batch is tried for some 11 seconds before its messages are one by one."""

    attempts_max: int = 8
    attempts_alone_max: int = 3
    back_off_seconds: float = 0.1
    back_off_seconds_max: float = 5.0
    redrive_seconds: float = 2.0


def blames_a_message(fault: BaseException) -> bool:
    """True when trying again would fail again, because of what is in the messages or of how the handler is made."""
    if isinstance(fault, BaseExceptionGroup):
        return any(blames_a_message(one) for one in fault.exceptions)
    return isinstance(fault, _ABOUT_CONTENT) or not isinstance(fault, _AWAY)


@dataclass(slots=True)
class Circumstances:
    """What may end a delivery before it is done.

    `stop`: the consumer ends. `changed`: the partitions have been dealt anew, so that what was read has to be read again.
    `are_ours` is False once others may have the partitions.
    """

    stop: asyncio.Event
    changed: asyncio.Event
    are_ours: Callable[[], bool]

    @property
    def are_over(self) -> bool:
        """Whether to give the batch back at the next opportunity."""
        return self.stop.is_set() or self.changed.is_set() or not self.are_ours()


class Delivery:
    """One consumer's way of handing over. It remembers how often what comes first has failed, also when that is read again."""

    def __init__(
        self, group: str, handler: Handler, dead_letters: DeadLetters, statistics: Statistics, limits: DeliveryLimits,
        circumstances: Circumstances,
    ) -> None:  # fmt: skip
        self._group, self._handler, self._dead_letters = group, handler, dead_letters
        self._statistics, self._limits, self._circumstances = statistics, limits, circumstances
        self._first = -1
        self._failures = 0
        self._fault: Exception | None = None
        self._failing_since = 0.0
        self._redrive_at = 0.0

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """True when every message is dealt with; False when all of them have to be read again, because things changed."""
        if not messages:
            return True
        if messages[0].position != self._first:
            self._first, self._failures = messages[0].position, 0
        pauses = self._pauses()
        while self._circumstances.are_ours():
            if self._failures >= self._limits.attempts_max:
                return await self._one_by_one(messages)
            fault = await self._attempt(messages)
            if fault is None:
                self._first = -1
                return True
            if blames_a_message(fault):
                self._failures += 1
                if self._failures == 1:
                    self._failing_since = asyncio.get_running_loop().time()
                if self._failures >= self._limits.attempts_max:
                    continue
            await self._pause(next(pauses))
            if self._circumstances.stop.is_set() or self._circumstances.changed.is_set():
                return False
        return False

    async def redrive(self, owns: Callable[[Message], bool]) -> None:
        """Hands over the dead letters that somebody asked for, of the keys that this consumer has; asks every few seconds.

        To be called between batches, so that calls for a key do not overlap.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._redrive_at:
            return
        self._redrive_at = loop.time() + self._limits.redrive_seconds
        position = 0
        try:
            while letters := await self._dead_letters.requested(self._group, position):
                for letter in letters:
                    if self._circumstances.are_over:
                        return
                    await self._redrive(letter, owns)
                position = letters[-1].position
        except _AWAY as fault:
            log.warning("dead letters cannot be redriven now", group=self._group, fault=repr(fault))

    async def _redrive(self, letter: DeadLetter, owns: Callable[[Message], bool]) -> None:
        if not self._dead_letters.is_ours(letter.tenant_id):
            return
        message = await self._dead_letters.message(letter)
        if message is None:
            log.error("a dead letter's event is not in the log", group=self._group, position=letter.position)
            return
        if not owns(message):
            return
        tried = await self._alone(message)
        if tried is None:
            return
        if tried.fault is not None:
            await self._dead_letters.put(self._group, message, tried.fault, tried.attempts, 0.0)
            return
        await self._dead_letters.redriven(letter)
        self._statistics.redriven += 1
        log.info("a dead letter was redriven", group=self._group, position=letter.position)

    async def _one_by_one(self, messages: Sequence[Message]) -> bool:
        log.error(
            "a batch fails again and again; its messages are tried one by one",
            group=self._group, failures=self._failures, messages=len(messages),
        )  # fmt: skip
        for message in messages:
            # One message on its own has had its attempts already.
            tried = _Tried(self._fault, 0) if len(messages) == 1 else await self._alone(message)
            if tried is None:
                return False
            if tried.fault is not None and not await self._pass_over(message, tried.fault, self._failures + tried.attempts):
                return False
        self._first = -1
        return True

    async def _alone(self, message: Message) -> "_Tried | None":
        """What became of one message; None when things changed before that was clear."""
        attempts, pauses = 0, self._pauses()
        while not self._circumstances.are_over:
            fault = await self._attempt([message])
            if fault is None:
                return _Tried(None, attempts)
            if blames_a_message(fault):
                attempts += 1
                if attempts >= self._limits.attempts_alone_max:
                    return _Tried(fault, attempts)
            await self._pause(next(pauses))
        return None

    async def _pass_over(self, message: Message, fault: BaseException, attempts: int) -> bool:
        """Writes a message down as a dead letter. False when things changed before the database had taken it."""
        since_seconds = asyncio.get_running_loop().time() - self._failing_since
        pauses = self._pauses()
        while not self._circumstances.are_over:
            try:
                await self._dead_letters.put(self._group, message, fault, attempts, since_seconds)
            except _AWAY as away:
                log.warning("a dead letter cannot be written now; the stream waits", group=self._group, fault=repr(away))
                await self._pause(next(pauses))
                continue
            self._statistics.dead_letters += 1
            log.error(
                "a message was passed over; it is a dead letter now", group=self._group, position=message.position,
                topic=message.topic, fault=repr(fault),
            )  # fmt: skip
            return True
        return False

    async def _attempt(self, messages: Sequence[Message]) -> Exception | None:
        try:
            await self._handler(messages)
        except Exception as fault:
            self._fault = fault
            self._statistics.repeated_batches += 1
            log.warning("a batch was not handled; it comes again", group=self._group, fault=repr(fault))
            return fault
        self._statistics.delivered += len(messages)
        self._statistics.observe_delivery(self._group, len(messages), messages[-1].recorded_at)
        return None

    def _pauses(self) -> Iterator[float]:
        seconds = self._limits.back_off_seconds
        while True:
            yield seconds
            seconds = min(seconds * 2, self._limits.back_off_seconds_max)

    async def _pause(self, seconds: float) -> None:
        await first_of(seconds, self._circumstances.stop, self._circumstances.changed)


class _Tried(NamedTuple):
    """How a message fared alone: the last fault, and how many there were; without one it is dealt with."""

    fault: Exception | None
    attempts: int
