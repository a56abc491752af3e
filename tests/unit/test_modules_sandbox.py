# intent_ref: tests.modules
"""The sandbox says what it is, repeats itself, and fails on request."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from modules.contract import Invocation, ModuleError
from modules.sandbox import Sandbox

ASKED = Invocation(
    tenant_id="t", execution_id="e", step="s", action="no-op", attempt=1, parameters={}, inputs={}, target="production",
    idempotency_key="k", deadline=datetime(2026, 11, 21, tzinfo=UTC),
)  # fmt: skip


def asked(action: str, attempt: int = 1, **parameters: Any) -> Invocation:
    return replace(ASKED, action=action, attempt=attempt, parameters=parameters)


@pytest.mark.parametrize("action", [action.name for action in Sandbox().module.actions])
async def test_every_result_says_that_nothing_was_changed(action: str) -> None:
    result = await Sandbox().call(asked(action, seconds=0))
    assert result["sandbox"] is True
    assert result["note"] == "nothing was changed"


async def test_the_same_image_has_the_same_digest_and_another_has_another() -> None:
    box = Sandbox()
    first, again, other = [
        (await box.call(asked("build-docker-image", image=image, context="./app")))["digest"] for image in ("a:1", "a:1", "b:1")
    ]
    assert first == again != other
    assert first.startswith("sha256:")
    assert len(first) == 71


async def test_a_deployment_reports_the_replicas_it_was_asked_for() -> None:
    result = await Sandbox().call(asked("deploy-to-kubernetes", namespace="production", replicas=3))
    assert (result["namespace"], result["replicas"], result["ready_replicas"]) == ("production", 3, 3)


@pytest.mark.parametrize(
    ("wishes", "attempt", "fails"),
    [
        ({"fail": True}, 9, True),
        ({"fail": "why"}, 9, True),
        ({"fail": False}, 1, False),
        ({"fail": "why", "fail_attempts": 2}, 2, True),
        ({"fail": "why", "fail_attempts": 2}, 3, False),
        ({"fail_attempts": 1}, 1, True),
        ({"fail_attempts": 1}, 2, False),
        ({"fail": False, "fail_attempts": 1}, 1, False),
        ({}, 1, False),
    ],
)
async def test_it_fails_as_often_as_it_is_told(wishes: dict[str, Any], attempt: int, fails: bool) -> None:
    call = Sandbox().call(asked("no-op", attempt, sandbox=wishes))
    if not fails:
        assert (await call)["sandbox"] is True
        return
    with pytest.raises(ModuleError) as failure:
        await call
    assert failure.value.code == "sandbox-failure"
    assert failure.value.retryable
    assert failure.value.message == wishes.get("fail", "The sandbox was told to fail.") or wishes.get("fail") is True


@pytest.mark.parametrize(
    "wishes",
    ["fail", {"fail": 1}, {"fail_attempts": "two"}, {"fail_attempts": True}, {"take": -1}, {"take": "long"}, {"take": 1e9}],
)
async def test_a_wish_it_does_not_understand_is_the_authors_fault(wishes: Any) -> None:
    with pytest.raises(ModuleError) as failure:
        await Sandbox().call(asked("no-op", sandbox=wishes))
    assert failure.value.code == "input-invalid"
    assert not failure.value.retryable


async def test_it_takes_the_time_it_is_told_and_can_be_cancelled_meanwhile() -> None:
    task = asyncio.create_task(Sandbox().call(asked("no-op", sandbox={"take": 600})))
    done, _ = await asyncio.wait([task], timeout=0.01)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
