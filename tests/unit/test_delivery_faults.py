# intent_ref: tests.dead-letters
"""Whose fault a failure is: a message's, which makes it a dead letter in the end, or that of something that is away."""

import asyncpg
import pytest

from event_store.codec import UndecodableEvent
from event_store.records import StoreUnavailable
from streaming.delivery import blames_a_message
from streaming.transport import TransportAway


@pytest.mark.parametrize(
    "fault",
    [
        StoreUnavailable("x"), TransportAway("x"), ConnectionResetError("x"), TimeoutError(), OSError("x"),
        asyncpg.InterfaceError("closed"), asyncpg.TooManyConnectionsError("x"), asyncpg.DeadlockDetectedError("x"),
        asyncpg.UndefinedTableError("x"), ExceptionGroup("x", [TimeoutError(), ExceptionGroup("y", [TransportAway("x")])]),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_away_is_no_messages_fault(fault: Exception) -> None:
    assert not blames_a_message(fault)


@pytest.mark.parametrize(
    "fault",
    [
        KeyError("x"), ValueError("x"), UndecodableEvent("x", "y"), AssertionError(), asyncpg.UniqueViolationError("x"),
        asyncpg.InvalidTextRepresentationError("x"), asyncpg.DataError("x"), asyncpg.ProgramLimitExceededError("x"),
        ExceptionGroup("x", [TimeoutError(), KeyError("x")]),
    ],
    ids=repr,
)  # fmt: skip
def test_what_would_fail_again_is_a_messages_fault(fault: Exception) -> None:
    assert blames_a_message(fault)
