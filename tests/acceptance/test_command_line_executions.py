# intent_ref: quantum.cli-executions
"""`quantum executions`, as a program, against a platform that runs."""

import asyncio
import json
import subprocess
from typing import Any

from tests.acceptance.outside import Outside, Tenant, command
from tests.waiting import wait_until

GATE: dict[str, Any] = {"id": "gate", "approval": {"roles": ["operator"]}}
BROKEN: dict[str, Any] = {"action": "notify", "sandbox": {"fail": "no such room", "retryable": False}}


async def quantum(tenant: Tenant, *words: str) -> "subprocess.CompletedProcess[str]":
    """`quantum executions …` for a tenant."""
    options = ("--tenant", tenant.id, "--url", tenant.outside.address)
    return await asyncio.to_thread(command, "executions", *words, *options, data_dir=tenant.outside.data_dir)


async def answered(tenant: Tenant, *words: str) -> Any:
    """What it prints with --json."""
    done = await quantum(tenant, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_an_execution_is_listed_shown_explained_approved_and_watched_to_its_end(tenant: Tenant):
    execution_id = await tenant.start([{"id": "paid", "signal": "paid"}, GATE, {"action": "no-op"}])
    await tenant.step(execution_id, "paid", "waiting")
    assert [one["id"] for one in await answered(tenant, "list", "--status", "running", "--since", "1h")] == [execution_id]
    shown = await quantum(tenant, "show", execution_id)
    assert "for the signal paid" in shown.stdout
    explained = await answered(tenant, "explain", execution_id)
    assert [one["reason"] for one in explained["steps"]] == ["signal", "depends-on", "depends-on"]
    watching = asyncio.create_task(quantum(tenant, "watch", execution_id))
    assert (await answered(tenant, "signal", execution_id, "paid", '{"amount": 3}'))["status"] == "running"
    await tenant.step(execution_id, "gate", "waiting")
    refused = await quantum(tenant, "approve", execution_id, "gate", "--role", "author")
    assert (refused.returncode, "is approved or rejected by: operator" in refused.stderr) == (1, True)
    approved = await quantum(tenant, "approve", execution_id, "gate", "--comment", "Go.")
    assert approved.returncode == 0, approved.stderr
    watched = await watching
    assert watched.returncode == 0, watched.stderr
    assert "completed" in watched.stdout
    assert "gate" in watched.stdout
    events = await quantum(tenant, "watch", execution_id, "--json")
    types = [json.loads(line)["type"] for line in events.stdout.splitlines()]
    assert (types[0], types[-1]) == ("execution_started", "execution_completed")
    shown = await answered(tenant, "show", execution_id)
    assert shown["steps"][0]["result"] == {"amount": 3}


async def test_what_failed_is_found_with_its_reason_and_retried_all_at_once(tenant: Tenant):
    failed = [await tenant.start([BROKEN]) for _ in range(3)]
    for execution_id in failed:
        await tenant.ended(execution_id)
    listed = await quantum(tenant, "list", "--status", "failed")
    assert listed.stdout.count("no such room") == 3
    unasked = await quantum(tenant, "retry", "--status", "failed")
    assert unasked.returncode == 1
    assert "3 executions would be asked to retry: say --yes" in unasked.stderr
    assert await answered(tenant, "retry", "--status", "failed", "--dry-run") == {"found": 3, "executions": failed[::-1]}
    assert await answered(tenant, "retry", "--status", "failed", "--yes") == {"done": 3, "refused": {}}

    async def again() -> bool:
        found = (await tenant.get("/executions?status=failed")).json()["items"]
        return [one["steps"][0]["attempts"] for one in found] == [2, 2, 2]

    await wait_until(again, 20, what="all to have failed again")
    assert await answered(tenant, "retry", "--status", "completed", "--yes") == {"found": 0, "executions": []}
    watched = await quantum(tenant, "watch", failed[0])
    assert watched.returncode == 1
    assert "no such room" in watched.stdout


async def test_running_executions_are_cancelled_by_filter_and_a_refusal_is_counted(tenant: Tenant):
    running = [await tenant.start([GATE]) for _ in range(2)]
    for execution_id in running:
        await tenant.step(execution_id, "gate", "waiting")
    assert await answered(tenant, "cancel", "--status", "running", "--reason", "superseded", "--yes") == {
        "done": 2,
        "refused": {},
    }
    for execution_id in running:
        assert (await tenant.ended(execution_id))["reason"] == "superseded"
    once_more = await quantum(tenant, "cancel", running[0])
    assert once_more.returncode == 1
    assert "1 x The execution has ended" in once_more.stdout
    unknown = await quantum(tenant, "terminate", "nobody")
    assert "There is no such thing" in unknown.stdout


async def test_many_pages_are_paused_and_resumed_by_filter_up_to_a_limit(tenant: Tenant):
    running = [await tenant.start([GATE]) for _ in range(104)]
    await tenant.step(running[-1], "gate", "waiting")
    counted = await quantum(tenant, "pause", "--status", "running", "--dry-run")
    assert "pause: 104 found, nothing done." in counted.stdout
    assert running[-1] in counted.stdout
    assert await answered(tenant, "pause", "--status", "running", "--limit", "102", "--yes") == {"done": 102, "refused": {}}
    assert (await answered(tenant, "pause", "--status", "running", "--dry-run"))["executions"] == running[1::-1]
    assert await answered(tenant, "resume", "--status", "paused", "--yes") == {"done": 102, "refused": {}}
    assert await answered(tenant, "cancel", "--since", "1h", "--yes") == {"done": 104, "refused": {}}
    again = await quantum(tenant, "resume", "--since", "1h", "--yes")
    assert again.returncode == 1
    assert "resume: 0 done, 104 refused." in again.stdout


async def test_what_is_said_wrong_is_answered_in_a_sentence(tenant: Tenant, outside: Outside):
    for words, sentence in (
        (("retry",), "Say which execution by its id"),
        (("list", "--since", "tomorrow"), "'tomorrow' is no time"),
        (("show", "nobody"), "There is no execution 'nobody'"),
        (("signal", "x", "y", "{"), "The payload is not JSON"),
    ):
        done = await quantum(tenant, *words)
        assert done.returncode == 1, done.stdout
        assert sentence in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr
    nobody = command("executions", "list", "--tenant", "t", "--url", "http://127.0.0.1:9", data_dir=outside.data_dir)
    assert "cannot be reached" in " ".join(nobody.stderr.split())
    assert "--tenant" in command("executions", "list", data_dir=outside.data_dir).stderr
