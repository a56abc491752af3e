# intent_ref: commands.scope
"""What the expressions of a step can see."""

from typing import Any

from domain.documents import timestamp
from domain.execution import Execution
from domain.plan import item_index, step_of_run


def scope_of(state: Execution, run_id: str | None) -> dict[str, Any]:
    """`inputs`, `steps`, `execution`, `tenant`, and for a run of one item of a loop `item` and `index`."""
    steps = {
        step.id: {"result": run.result, "status": run.status, "error": run.error}
        for step in state.plan.steps
        if (run := state.runs[step.id]).status != "pending"
    }
    scope: dict[str, Any] = {
        "inputs": state.inputs,
        "steps": steps,
        "execution": {
            "id": state.execution_id, "intent_name": state.intent_name, "version": state.version, "target": state.target,
            "started_at": timestamp(state.started_at),
        },
        "tenant": {"id": state.options.tenant_id},
    }  # fmt: skip
    index = None if run_id is None else item_index(run_id)
    if run_id is not None and index is not None:
        items = state.runs[step_of_run(run_id)].items or ()
        scope.update(item=items[index], index=index)
    return scope
