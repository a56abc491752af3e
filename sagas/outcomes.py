# intent_ref: sagas.execution
"""How answers of modules get into the log: each once, and those of one execution that come together in one append.

A wide execution has a hundred answers at the same moment, and all of them would be decided on the same version of its stream.
So one is recorded at a time; what comes in the meantime waits and then goes together.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from commands.execution import CompleteStep, FailStep, RecordOutcomes
from commands.handle import Envelope, Outcome, Shell, handle
from domain.execution import Execution
from domain.immutable import immutable
from domain.refusals import ExecutionHasEnded, NotFound, StepNotRunning
from domain.values import TenantId
from event_store.records import StoreUnavailable, StreamBusy
from sagas.dispatches import Dispatch

ACTOR = "saga:execution"
TOGETHER_MAX = 64
_BACK_OFF_SECONDS = 0.1
_BACK_OFF_SECONDS_MAX = 2.0

log = structlog.get_logger(__name__)


@immutable
class Answered:
    """An answer on its way into the log. `recorded` tells whether it was news: None where it came too late."""

    dispatch: Dispatch
    command: CompleteStep | FailStep
    traceparent: str | None
    recorded: asyncio.Future[bool | None]


class Recorded(Protocol):
    """Told of each answer that this process has put into the log: what was answered, the trace of the answer, and what it led to.
    `is_free`: the one who has recorded it has nothing else to record.
    """

    def __call__(self, answered: Dispatch, traceparent: str | None, outcome: Outcome[Execution], *, is_free: bool) -> None:
        """Takes note of it."""


class Outcomes:
    """The way into the log for one process's answers."""

    def __init__(self, shell: Shell, recorded: Recorded | None = None) -> None:
        self._shell, self._told = shell, recorded
        self._waiting: dict[tuple[str, str], list[Answered]] = {}

    async def record(self, dispatch: Dispatch, command: CompleteStep | FailStep, traceparent: str | None) -> bool | None:
        """True when the answer is in the log now, False when it was before, None when it came too late.

        Tries as long as it takes where the database is away; raises what nobody foresaw.
        """
        key = (dispatch.tenant_id, dispatch.execution_id)
        if (others := self._waiting.get(key)) is not None:
            answered = Answered(dispatch, command, traceparent, asyncio.get_running_loop().create_future())
            others.append(answered)
            return await answered.recorded
        self._waiting[key] = []
        try:
            return await self._recorded(dispatch, command, traceparent)
        finally:
            left = self._waiting.pop(key)
            if left:
                await self._record_left(key, left)

    async def _record_left(self, key: tuple[str, str], left: list[Answered]) -> None:
        """What came while the first one was being recorded, and what comes while that is."""
        while left:
            together, rest = left[:TOGETHER_MAX], left[TOGETHER_MAX:]
            self._waiting[key] = rest
            try:
                await self._record_together(together)
            except BaseException:
                # Cancelled: nobody is left to record what has come meanwhile either. Whoever waits makes the attempt again.
                for answered in (*together, *self._waiting.pop(key)):
                    if not answered.recorded.done():
                        answered.recorded.set_exception(StoreUnavailable("The answer could not be recorded."))
                raise
            left = self._waiting.pop(key)

    async def _record_together(self, together: Sequence[Answered]) -> None:
        if len(together) > 1:
            first = together[0].command
            command = RecordOutcomes(
                execution_id=first.execution_id, outcomes=tuple([one.command for one in together]), at=first.at
            )  # fmt: skip
            try:
                if await self._recorded(together[0].dispatch, command, together[0].traceparent):
                    for answered in together:
                        _settle(answered, True)
                    return
                # Another worker has recorded the one whose id they went under: that says nothing of the others.
            except Exception as fault:
                log.warning("answers are recorded one by one", execution_id=first.execution_id, fault=repr(fault))
        for answered in together:
            try:
                _settle(answered, await self._recorded(answered.dispatch, answered.command, answered.traceparent))
            except Exception as fault:
                if not answered.recorded.done():
                    answered.recorded.set_exception(fault)

    async def _recorded(
        self, dispatch: Dispatch, command: CompleteStep | FailStep | RecordOutcomes, traceparent: str | None
    ) -> bool | None:
        """As `record`."""
        envelope = Envelope(
            TenantId(dispatch.tenant_id), dispatch.command_id, ACTOR, dispatch.correlation_id,
            causation_id=str(dispatch.event_id), traceparent=traceparent,
        )  # fmt: skip
        back_off = _BACK_OFF_SECONDS
        while True:
            try:
                outcome = await handle(self._shell, command, envelope)
                break
            except (StepNotRunning, ExecutionHasEnded, NotFound):
                return None
            except (StreamBusy, StoreUnavailable) as fault:
                log.warning("an outcome could not be recorded yet", step=dispatch.step, fault=str(fault), seconds=back_off)
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, _BACK_OFF_SECONDS_MAX)
        if self._told is not None and outcome.stored:
            others = self._waiting.get((dispatch.tenant_id, dispatch.execution_id))
            self._told(dispatch, traceparent, outcome, is_free=not others and not isinstance(command, RecordOutcomes))
        return not outcome.replayed


def _settle(answered: Answered, recorded: bool | None) -> None:
    if not answered.recorded.done():
        answered.recorded.set_result(recorded)
