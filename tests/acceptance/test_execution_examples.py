# intent_ref: tests.documentation
"""Every definition in docs/executions.md is planned and run, and comes out as the page says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from markdown_it import MarkdownIt

from tests.acceptance.outside import Tenant

PAGE = Path(__file__).parents[2] / "docs" / "executions.md"


@dataclass(frozen=True)
class Run:
    """What an example is given, what is done meanwhile (step to wait for, its status, route, body), and what comes of it."""

    statuses: Sequence[str]
    inputs: dict[str, Any] = field(default_factory=dict)
    meanwhile: Sequence[tuple[str, str, str, Any]] = ()
    ends: str = "completed"
    result: Any = None


RUNS = {
    "Data from step to step": Run(("completed", "completed"), result={"replicas": 2}),
    "Branches, and a step that joins them": Run(("completed",) * 3),
    "The first of several suffices": Run(("completed",) * 3),
    "A condition": Run(("skipped", "skipped", "completed"), {"careful": False}),
    "A time": Run(("completed",) * 3),
    "An approval": Run(("completed",) * 2, meanwhile=(("go", "waiting", "steps/go/approve", {"comment": "Yes."}),)),
    "A signal from outside": Run(("completed",) * 2, meanwhile=(("paid", "waiting", "signals/paid", {"amount": 12}),)),
    "Once for each": Run(("completed",) * 2, {"regions": ["eu", "us", "ap"]}),
    "Items that fail": Run(("failed", "completed"), result={"where": ["eu"]}),
    "Retries and timeouts": Run(("completed",)),
    "A fallback, and a failure that is lived with": Run(("completed", "failed", "completed")),
    "Undoing": Run(("compensated", "compensated", "failed"), ends="failed"),
    "One at a time": Run(("completed",) * 2, {"cluster": "eu"}),
    "Another intent as a step": Run(("completed",) * 2),
}  # fmt: skip


def examples() -> dict[str, dict[str, Any]]:
    """The page's definitions by their headings."""
    found, heading = {}, ""
    tokens = MarkdownIt().parse(PAGE.read_text(encoding="utf-8"))
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if token.type == "heading_open":
            heading = following.content
        elif token.type == "fence" and token.info == "json":
            found[heading] = orjson.loads(token.content)
    return found


def test_every_example_of_the_page_is_run_and_nothing_else():
    assert examples().keys() == RUNS.keys()


@pytest.mark.parametrize("title", sorted(RUNS))
async def test_an_example_does_what_the_page_says(tenant: Tenant, title: str):
    run, definition = RUNS[title], examples()[title]
    steps = [{"action": "no-op", "image": "${{ inputs.image }}"}]
    assert (await tenant.post("/workflows", {"name": "release", "steps": steps})).status_code == 201
    created = await tenant.post("/intents", {"name": "example", "definition": definition})
    assert created.status_code == 201, created.text
    path = f"/intents/{created.json()['id']}"
    planned = await tenant.post(f"{path}/plan", {"inputs": run.inputs})
    assert planned.status_code == 200, planned.text
    assert len(planned.json()["steps"]) == len(definition["steps"])
    started = await tenant.post(f"{path}/execute", {"inputs": run.inputs})
    assert started.status_code == 202, started.text
    execution_id = started.json()["execution_id"]
    for step, status, route, body in run.meanwhile:
        await tenant.step(execution_id, step, status)
        answer = await tenant.post(f"/executions/{execution_id}/{route}", body, role="operator")
        assert answer.status_code == 202, answer.text
    ended = await tenant.ended(execution_id)
    assert (ended["status"], [step["status"] for step in ended["steps"]]) == (run.ends, list(run.statuses)), ended
    assert ended["result"] == run.result
