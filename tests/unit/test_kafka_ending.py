# intent_ref: tests.kafka-transport
"""How the end of a Kafka client is seen through: what it cancels of its own ends a step, and who is cancelled himself stops."""

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from streaming.kafka_clients import _ended


async def _waits_for_a_task_that_is_cancelled() -> None:
    other = asyncio.create_task(asyncio.sleep(60))
    other.cancel()
    await other


async def _fails() -> None:
    raise KafkaConnectionError


async def test_a_step_that_a_client_cancels_itself_or_that_fails_is_no_reason_to_stop() -> None:
    assert not await _ended(_waits_for_a_task_that_is_cancelled())
    assert not await _ended(_fails())
    assert await _ended(asyncio.sleep(0))


async def test_who_is_cancelled_does_not_go_on() -> None:
    ending = asyncio.create_task(_ended(asyncio.sleep(60)))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
