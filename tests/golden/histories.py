# intent_ref: tests.golden-histories
"""Whole histories of executions as releases have written them: `python -m tests.golden.histories` adds what is missing.

A file holds the decisions of one execution, each with its events as stored bytes, and the document that the release which wrote
it showed at the end. One that exists is never written again: it stands for what is in people's logs. Those whose names begin
with `before-control-flow` were written by the release before definitions could say more than steps and retries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from domain.documents import execution_document
from domain.execution import Execution, evolve
from domain.execution_events import ExecutionEvent
from domain.values import TenantId
from event_store import codec
from tests.unit.execution_play import Play

FOLDER = Path(__file__).parent / "histories"
TENANT = TenantId("tenant-123")


@dataclass(frozen=True)
class History:
    """A history: its decisions as (topic, payload), and the document at its end."""

    name: str
    decisions: tuple[tuple[tuple[str, bytes], ...], ...]
    document: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "History":
        """A file of `FOLDER`."""
        kept = orjson.loads(path.read_bytes())
        decisions = tuple(
            tuple((event["topic"], event["payload"].encode()) for event in decision) for decision in kept["decisions"]
        )
        return cls(path.stem, decisions, kept["document"])

    def events(self) -> Iterator[list[ExecutionEvent]]:
        """The events of each decision, as today's codec reads them."""
        for decision in self.decisions:
            yield [codec.decode(topic, payload) for topic, payload in decision]  # type: ignore[misc]

    def states(self) -> Iterator[Execution]:
        """The state after each decision."""
        state: Execution | None = None
        for events in self.events():
            for event in events:
                state = evolve(state, event)
            assert state is not None
            yield state


class _Written(Play):
    """A play that keeps its decisions apart."""

    def _keep(self, events: list[ExecutionEvent]) -> list[str]:
        if not hasattr(self, "decisions"):
            self.decisions: list[list[ExecutionEvent]] = []
        if events:
            self.decisions.append(list(events))
        self.seconds += 2.5
        return super()._keep(events)


UNDO = {"compensate": {"action": "undo", "retry": {"max_attempts": 2, "initial_interval": 1}}}
RETRY = {"retry": {"max_attempts": 3, "initial_interval": 1, "jitter": 0.5}}
GRAPH = [
    {"action": "a"}, {"action": "b", "depends_on": ["a"], **RETRY}, {"action": "c", "depends_on": ["a"], "fallback": "f"},
    {"action": "d", "depends_on": ["b", "c"], "join": "any", "when": "inputs.careful"}, {"action": "e", "depends_on": ["b", "c"]},
]  # fmt: skip
GATES = [
    {"id": "pause", "wait": {"for": "5m"}},
    {"id": "ok", "action": "a", "approval": {"roles": ["operator"], "expires_in": "1d", "on_expiry": "skip"}, "depends_on": []},
    {"id": "paid", "signal": {"name": "paid"}, "depends_on": []},
    {"id": "after", "action": "b", "depends_on": ["pause", "ok", "paid"], "timeouts": {"total": "1h", "queue": "10m"}},
]
LOOP = [
    {
        "id": "each",
        "action": "make",
        "foreach": {"items": [{"n": 1}, {"n": 2}, {"n": 3}], "concurrency": 2},
        "n": "${{ item.n }}",
    },
    {"id": "part", "workflow": {"name": "part", "version": 2, "inputs": {"name": "x"}}},
    {"id": "last", "action": "b", "concurrency": {"key": "cluster", "max": 2}},
]
START = {"inputs": {"careful": True}, "priority": 1, "started_by": "user:ann"}
RESOURCE = {"resources": [{"type": "vm", "id": "vm-1", "size": 2}]}


Begin = Callable[..., _Written]


def written() -> dict[str, _Written]:
    """What today's decisions write."""
    found: dict[str, _Written] = {}

    def play(name: str, *steps: Any, **more: Any) -> _Written:
        found[name] = _Written(*steps, start=START, **more)
        return found[name]

    _forwards(play)
    _backwards(play)
    _cut_short(play)
    return found


def _forwards(play: Begin) -> None:
    """Graphs, gates, loops and children."""
    one = play("graph-completed", *GRAPH, outputs={"digest": "${{ steps.b.result.digest }}"}, timeout="1d")
    one.complete("a", {"n": 1})
    one.fail("b")
    one.fail("c")
    one.complete("c", "instead")
    one.complete("b", {"digest": "größer ✓"})
    one.complete("d")
    one.complete("e")
    one = play("graph-running", *GRAPH, timeout="1d")
    one.complete("a")
    one.fail("b")
    one.fail("c")
    play("gates-waiting", *GATES)
    one = play("gates-between", *GATES)
    one.approve("ok", "operator")
    one.signal("other", 1)
    one.due("pause")
    one.pause()
    one.signal("paid", {"amount": 1})
    one = play("loop-under-way", *LOOP)
    one.complete("each[0]", RESOURCE)
    one.fail("each[1]", counts=False)
    one = play("loop-with-child", *LOOP)
    one.complete("each[0]")
    one.complete("each[1]")
    one.complete("each[2]")


def _backwards(play: Begin) -> None:
    """What fails, is undone, is given up, and goes on after all."""
    chain = [{"action": "a", **UNDO}, {"action": "make"}, {"action": "c", **UNDO}, {"action": "d"}]
    one = play("compensating", *chain)
    one.complete("a", RESOURCE)
    one.complete("make", RESOURCE)
    one.complete("c")
    one.fail("d", retryable=False)
    one.complete("~c")
    one.fail("~make")
    one = play("compensated", *chain)
    one.complete("a", RESOURCE)
    one.complete("make")
    one.fail("c")
    one.complete("~make")
    one.fail("~a")
    one.fail("~a")
    one = play("cancelling", {"action": "a", **UNDO}, {"action": "b", "depends_on": []})
    one.complete("a")
    one.cancel("not today")
    one = play("retried", *chain)
    one.complete("a")
    one.fail("make")
    one.complete("~a")
    one.retry()
    one.complete("a")
    one = play("rerun", {"action": "a"}, {"action": "b", **RETRY}, {"action": "c"})
    one.complete("a")
    one.complete("b")
    one.complete("c")
    one.rerun("b")
    one.fail("b")
    one = play("failing", {"action": "a"}, {"action": "b", "depends_on": []}, {"id": "w", "wait": 60, "depends_on": []})
    one.fail("a")
    one = play("out-of-time", {"action": "a", **UNDO}, {"action": "b"}, timeout="1m")
    one.complete("a")
    one.out_of_time()
    one = play("terminated", *GATES)
    one.terminate()


def _cut_short(play: Begin) -> None:
    """Loops with failed items, steps that run out of time at a gate, and attempts that are put off."""
    loop = {"id": "each", "action": "a", "foreach": {"items": [1, 2, 3], "concurrency": 3}, "approval": True}
    one = play("loop-given-up", loop, {"action": "b", "depends_on": []})
    one.approve("each[0]")
    one.fail("each[0]")
    one = play("loop-lived-with", {**loop, "approval": {"expires_in": "1h"}, "on_failure": "continue"}, {"action": "b"})
    one.approve("each[0]")
    one.complete("each[0]", {"n": 1})
    one.reject("each[1]")
    one.due("each[2]")
    one = play(
        "step-out-of-time", {"id": "w", "workflow": "part", "timeouts": {"total": "5s"}, "on_failure": "continue"},
        {"id": "at", "wait": {"until": "2026-12-24T18:00:00", "zone": "Europe/Berlin"}, "timeouts": {"total": "90d"}},
    )  # fmt: skip
    one.later(5).out_of_time("w")
    one = play("put-off", {"action": "a", "timeouts": {"total": "1d"}})
    one.fail("a", "circuit-open", counts=False)
    one.fail("a", "circuit-open", counts=False)


def write(folder: Path = FOLDER) -> list[str]:
    """Writes the histories that have no file yet; the names of the new files."""
    names = []
    for name, play in written().items():
        path = folder / f"{name}.json"
        if path.exists():
            continue
        decisions = [
            [{"topic": topic, "payload": payload.decode()} for topic, payload in map(codec.encode, events)]
            for events in play.decisions
        ]
        kept = {"decisions": decisions, "document": execution_document(TENANT, play.state)}
        path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        names.append(path.name)
    return names


if __name__ == "__main__":
    for written_name in write():
        print(f"wrote tests/golden/histories/{written_name}")
