# intent_ref: projections.pipelined
"""Writing rows while the next ones are being folded: PostgreSQL and Python work at the same time."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from event_store.array_literals import plain_array, text_array

T = TypeVar("T")
CHUNK = 250
"""Rows a statement: small enough that it is sent whole before folding goes on."""


class Pipelined:
    """One statement under way at a time. An async context manager: nothing is under way once it is left."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._under_way: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> "Pipelined":
        return self

    async def __aexit__(self, fault_type: object, fault: object, trace: object) -> None:
        if fault_type is None:
            await self._finish()
        elif self._under_way is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._under_way

    async def execute(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Begins the statement once the one before has ended; raises what that one raised.

        The columns of the rows are its parameters: numbers and texts as the text of an array (`$1::text::bigint[]`), bytes as an
        array.
        """
        if not rows:
            return
        columns = [_argument(column) for column in zip(*rows, strict=True)]
        await self._finish()
        self._under_way = asyncio.create_task(self._connection.execute(sql, *columns))
        await asyncio.sleep(0)

    async def _finish(self) -> None:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            await under_way


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items, `CHUNK` at a time."""
    for first in range(0, len(items), CHUNK):
        yield items[first : first + CHUNK]


def _argument(column: Sequence[Any]) -> Any:
    if isinstance(column[0], int):
        return plain_array(column)
    return text_array(column) if isinstance(column[0], str) else list(column)
