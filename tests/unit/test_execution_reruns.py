# intent_ref: commands.execution
"""A rerun does again what was undone, item by item as well."""

from datetime import UTC, datetime
from typing import Any

from commands.execution import CompleteStep, FailStep, RerunExecution, decide
from domain.execution import evolve
from domain.values import ExecutionId, StepId
from tests.execution_histories import BROKEN, started

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def test_a_loop_whose_items_were_undone_is_done_again_by_a_rerun_from_a_later_step() -> None:
    loop = {"id": "each", "action": "make", "foreach": ["a", "b"], "compensate": "remove"}
    steps = [loop, {"id": "bad", "action": "tell"}, {"id": "other", "action": "check", "depends_on": []}]
    state: Any = None
    for event in started({"target": "t", "steps": steps}, AT):
        state = evolve(state, event)

    def asked(command: Any, **fields: Any) -> None:
        nonlocal state
        for event in decide(state, command(execution_id=ExecutionId("e-1"), at=AT, **fields)):
            state = evolve(state, event)

    for step in ("each[0]", "each[1]", "other"):
        asked(CompleteStep, step=StepId(step), attempt=1)
    asked(FailStep, step=StepId("bad"), attempt=1, error=BROKEN)
    for step in ("~each[1]", "~each[0]"):
        asked(CompleteStep, step=StepId(step), attempt=1)
    assert state.status == "failed"
    asked(RerunExecution, step=StepId("bad"))
    statuses = {run_id: run.status for run_id, run in state.runs.items() if not run_id.startswith("~")}
    assert statuses == {
        "each": "running", "each[0]": "running", "each[1]": "running", "bad": "pending", "other": "completed",
    }  # fmt: skip
