# intent_ref: sagas.execution
"""Executions that begin: the stream brings their first events, so nobody has to read them again from the log; and what is known
of an execution tells that its beginning and its end ask for nothing.

Only while they are fresh. What a dead worker's successor hears again is older than a lease lasts, and then the log knows better
what became of it: a call whose outcome is recorded is not made again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from domain.execution import evolve
from domain.execution_events import ExecutionCompleted, ExecutionStarted
from domain.values import StreamId, TenantId
from event_store import codec
from event_store.snapshots import Loaded, StateCache
from streaming.transport import Message

FRESH = timedelta(seconds=1.5)
_STARTED = codec.topic_of(ExecutionStarted)
_BEGINNING_OR_END = frozenset({_STARTED, codec.topic_of(ExecutionCompleted)})


def keep_new(states: StateCache, messages: Sequence[Message]) -> None:
    """Keeps the state of each execution whose events from the first one on are among `messages`, where it is not known yet."""
    begun: dict[tuple[str, str], Loaded[Any] | None] = {}
    since = datetime.now(UTC) - FRESH
    for message in messages:
        key = (message.tenant_id, message.stream_id)
        if message.version == 1:
            known = (
                message.topic != _STARTED
                or message.recorded_at < since
                or states.cached(TenantId(key[0]), StreamId(key[1])) is not None
            )
            begun[key] = None if known else Loaded(None, 0)
        before = begun.get(key)
        if before is None or message.version != before.version + 1:
            begun.pop(key, None)
            continue
        try:
            begun[key] = Loaded(evolve(before.state, cast("Any", message.event)), message.version)
        except (codec.UnknownTopic, codec.UndecodableEvent):
            del begun[key]
    for (tenant_id, stream_id), loaded in begun.items():
        if loaded is not None:
            states.keep(TenantId(tenant_id), StreamId(stream_id), evolve, loaded)


def asks_nothing(states: StateCache, message: Message) -> bool:
    """True for the start and the completion of an execution that, as this process knows, never has a timer or a parent."""
    if message.topic not in _BEGINNING_OR_END:
        return False
    known = states.cached(TenantId(message.tenant_id), StreamId(message.stream_id))
    return known is not None and known.state is not None and known.state.is_plain and known.state.options.parent is None
