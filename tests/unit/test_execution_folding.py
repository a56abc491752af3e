# intent_ref: tests.execution-histories
"""The document of an execution, changed event by event, is what its state says at each moment."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import orjson
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from commands.execution import CompleteStep, FailStep, RerunExecution, RetryExecution, decide
from domain.documents import SHOWN_MAX, execution_document
from domain.execution import evolve
from domain.execution_events import ExecutionEvent
from domain.values import ExecutionId, StepId, TenantId
from projections.execution_folding import Folding, fold
from tests.execution_histories import BROKEN, executions, kinds, started

TENANT = TenantId("t")
AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


class Both:
    """An execution as a state and as a document, side by side."""

    def __init__(self, events: list[Any]) -> None:
        self.state: Any = None
        self.at = AT
        for event in events:
            self.happens(event)

    def happens(self, event: Any, *, stored: bool = False) -> None:
        """One more event; the document may have been stored and loaded before."""
        before, self.state = self.state, evolve(self.state, event)
        if before is None:
            self.folding = Folding(execution_document(TENANT, self.state))
        else:
            if stored:
                document, hidden = self.folding.document, self.folding.hidden()
                loaded = None if hidden is None else orjson.loads(orjson.dumps(hidden))
                self.folding = Folding.stored(orjson.loads(orjson.dumps(document)), loaded)
            fold(self.folding, event)
        assert self.folding.document == execution_document(TENANT, self.state), event

    def asked(self, command: Any, **fields: Any) -> None:
        """One more command."""
        self.at += timedelta(seconds=1)
        for event in decide(self.state, command(execution_id=ExecutionId("e-1"), at=self.at, **fields)):
            self.happens(event)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=executions(), data=st.data())
def test_the_document_changed_event_by_event_is_that_of_the_state(history: list[Any], data: st.DataObject) -> None:
    both = Both(history[:1])
    for event in history[1:]:
        both.happens(event, stored=data.draw(st.booleans()))


def test_every_event_comes_about_in_these_histories() -> None:
    for kind in get_args(ExecutionEvent):
        seen = find(
            executions(), lambda history, kind=kind: kind in kinds(history),  # type: ignore[misc]
            settings=settings(max_examples=3_000, deadline=None, database=None, derandomize=True, phases=[Phase.generate]),
        )  # fmt: skip
        assert kind in kinds(seen)


def test_a_loop_over_more_items_than_are_shown_counts_them_all_and_keeps_what_it_does_not_show() -> None:
    total = SHOWN_MAX + 20
    loop = {"id": "each", "action": "make", "foreach": {"items": list(range(total)), "concurrency": total}}
    both = Both(started({"target": "t", "steps": [loop]}, AT))
    for index in range(total):
        run = {"step": StepId(f"each[{index}]"), "attempt": 1}
        if index < total - 3:
            both.asked(CompleteStep, **run)
        else:
            both.asked(FailStep, **run, error=BROKEN, retryable=False)
    step = both.folding.document["steps"][0]
    assert (step["status"], step["items"]["total"], len(step["items"]["runs"])) == ("failed", total, SHOWN_MAX)
    assert step["items"]["statuses"] == {"completed": total - 3, "failed": 3}
    assert (both.folding.hidden() or {})["runs"]["each[110]"] == ("completed", 1)
    both.asked(RetryExecution)
    for index in range(total - 3, total):
        both.asked(CompleteStep, step=StepId(f"each[{index}]"), attempt=2)
    assert both.folding.document["status"] == "completed"
    both.asked(RerunExecution, step=StepId("each"))
    assert both.folding.document["steps"][0]["items"]["statuses"] == {"running": total}


def test_more_resources_than_are_shown_come_into_sight_as_the_first_are_released() -> None:
    made = [{"type": "vm", "id": str(number)} for number in range(SHOWN_MAX)]
    steps = [
        {"id": "one", "action": "make", "compensate": "remove"},
        {"id": "two", "action": "make"},
        {"id": "three", "action": "check"},
    ]
    both = Both(started({"target": "t", "steps": steps}, AT))
    both.asked(CompleteStep, step=StepId("one"), attempt=1, result={"resources": made})
    both.asked(CompleteStep, step=StepId("two"), attempt=1, result={"resources": [{"type": "disk", "id": "d"}]})
    assert {one["step"] for one in both.folding.document["resources"]} == {"one"}
    both.asked(FailStep, step=StepId("three"), attempt=1, error=BROKEN)
    both.asked(CompleteStep, step=StepId("~one"), attempt=1)
    assert both.folding.document["resources"] == [{"type": "disk", "id": "d", "step": "two"}]
    assert both.folding.document["steps"][0]["compensation"]["status"] == "completed"
    assert both.folding.document["status"] == "failed"
