# intent_ref: projections.read-model
"""What a read model is: tables that hold nothing but what its events say, and the function that folds events into them."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from event_store import codec
from event_store.records import RecordedEvent

Apply = Callable[[Any, Sequence[RecordedEvent]], Awaitable[None]]
"""Folds events, given in log order, into the tables. Runs inside the transaction that moves the checkpoint.

Its SQL names tables without a schema: the connection's search_path says whether the serving tables or those of a rebuild are
meant. Rows may depend on nothing but the events: no clock, no sequence, no random value; else a rebuild gives other rows."""


@dataclass(frozen=True)
class ReadModel:
    """One read model, whole: how its tables are made, what changes them.

    `ddl` makes the tables and indexes, without a schema's name; every table has a `tenant_id`. Row-level security and grants are
    added by `projections.schema`, so none can be forgotten. `functions` are the SQL functions its queries call. A new
    `version` says that rows come out differently for the same events: the read model is then rebuilt by itself.
    """

    name: str
    version: int
    events: tuple[type[Any], ...]
    tables: tuple[str, ...]
    ddl: str
    functions: str
    apply: Apply

    @cached_property
    def topics(self) -> frozenset[str]:
        """Topics of its events, with those of their older versions."""
        wanted = {codec.topic_of(event_class) for event_class in self.events}
        grown = True
        while grown:
            older = {old for old, (newer, _) in codec.UPCASTERS.items() if newer in wanted}
            grown = not older <= wanted
            wanted |= older
        return frozenset(wanted)

    @cached_property
    def shape(self) -> str:
        """Differs when the version or the tables differ."""
        return f"{self.version}-{hashlib.sha256(self.ddl.encode()).hexdigest()[:12]}"


class EventOutOfOrder(Exception):
    """An event of something this read model has never heard of: what came before it was set aside or is missing."""


def begun_before(decoded: Iterable[tuple[RecordedEvent, Any]], first: type[Any], id_field: str) -> list[tuple[str, str]]:
    """(tenant, id) of what these events go on with and do not begin: rows that have to be read. `first` is what begins one."""
    begun: set[tuple[str, str]] = set()
    wanted: dict[tuple[str, str], None] = {}
    for recorded, event in decoded:
        key = (recorded.tenant_id, getattr(event, id_field))
        if isinstance(event, first):
            begun.add(key)
        elif key not in begun:
            wanted[key] = None
    return list(wanted)
