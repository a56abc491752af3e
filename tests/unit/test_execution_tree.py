# intent_ref: quantum.cli-executions
"""An execution as a tree for the terminal: every document can be drawn, and says what matters."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from rich.console import Console

from commands.execution import CompleteStep, FailStep, decide
from domain.documents import execution_document
from domain.execution import evolve
from domain.values import ExecutionId, StepId, TenantId
from quantum.execution_tree import execution_tree
from tests.execution_histories import BROKEN, executions, started

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def drawn(document: dict[str, Any]) -> str:
    console = Console(width=200, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(execution_tree(document))
    return captured.get()


def document_of(events: list[Any], *commands: Any) -> dict[str, Any]:
    state: Any = None
    for event in events:
        state = evolve(state, event)
    for command in commands:
        for event in decide(state, command):
            state = evolve(state, event)
    return execution_document(TenantId("t"), state)


@settings(max_examples=80, deadline=None)
@given(history=executions())
def test_every_execution_can_be_drawn_with_each_of_its_steps(history: list[Any]) -> None:
    document = document_of(history)
    text = drawn(document)
    assert document["status"] in text
    assert all(step["id"] in text for step in document["steps"])


def test_what_is_waited_for_what_failed_and_what_was_not_undone_can_be_seen() -> None:
    steps = [
        {"id": "make", "action": "make", "compensate": {"action": "remove"}},
        {"id": "ask", "approval": {"roles": ["operator"], "message": "[red]To production?[/red]"}, "depends_on": []},
        {"id": "each", "foreach": ["a", "b"], "approval": True, "depends_on": []},
        {"id": "broken", "action": "tell", "depends_on": []},
    ]
    start = started({"target": "t", "steps": steps}, AT, business_key="order-7")
    run: dict[str, Any] = {"execution_id": ExecutionId("e-1"), "at": AT}
    text = drawn(document_of(start))
    assert "for an approval by operator: [red]To production?[/red]" in text
    assert "2 items: 2 waiting" in text
    assert "each[1] waiting for an approval" in text
    assert "key order-7" in text
    failed = document_of(
        start, CompleteStep(**run, step=StepId("make"), attempt=1),
        FailStep(**run, step=StepId("broken"), attempt=1, error=BROKEN),
        FailStep(**run, step=StepId("~make"), attempt=1, error={"code": "stuck", "message": "It is\nstuck."}),
    )  # fmt: skip
    text = drawn(failed)
    assert "not undone: make - somebody has to look" in text
    assert "undoing failed It is stuck." in text
    assert "broken tell failed It broke." in text
