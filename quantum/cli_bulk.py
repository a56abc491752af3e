# intent_ref: quantum.cli-executions
"""`quantum executions retry|cancel|terminate|pause|resume`: one execution by its id, or all that a filter finds.

Many are counted first and done only with leave, page by page, by `POST /executions/bulk`. An interrupted run is taken up by
asking again: what has been done does not match the filter any more.
"""

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quantum.cli_executions import Attention, Intent, Since, Statuses, _path, filters, program
from quantum.cli_output import AsJson, DataDir, err, out, print_json, run
from quantum.cli_reach import PlatformError, Reach, Tenant, TokenFile, Url, reach

if TYPE_CHECKING:
    from quantum.client import Client, Response

One = Annotated[str | None, typer.Argument(help="The execution's id; left out, the filters say which.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count, and do nothing.")]
Reason = Annotated[str | None, typer.Option(help="Why; recorded with it.")]
__all__ = ["program"]
_TRIES_MAX = 6
_PAGE = 100
_SHOWN = 10
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


@dataclass
class Tally:
    """What came of many requests; `refused` by reason, with one execution as an example each."""

    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def refuse(self, execution: str, reason: str) -> None:
        """One more was refused."""
        self.refused[reason] += 1
        self.examples.setdefault(reason, execution)

    def count(self, items: list[dict[str, Any]]) -> None:
        """The outcomes of a page."""
        for one in items:
            if one["outcome"] == "done":
                self.done += 1
            else:
                self.refuse(one["execution_id"], one["problem"]["title"])


@dataclass(frozen=True)
class _Asked:
    """What is to be done, and to what."""

    action: str
    execution: str | None
    wanted: dict[str, str]
    limit: int
    yes: bool
    dry_run: bool
    as_json: bool
    body: dict[str, Any] | None = None


@program.command("retry")
def retry_command(
    execution: One = None, status: Statuses = None, intent: Intent = None, since: Since = None,
    needs_attention: Attention = False, limit: Limit = 10_000, yes: Yes = False, dry_run: DryRun = False,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Lets failed executions go on from the steps that failed: one by its id, or all that `--status failed --intent …` finds."""
    asked = _Asked(
        "retry", execution, filters(status, intent, since, needs_attention), limit, yes, dry_run, as_json
    )  # fmt: skip
    _carry_out(asked, reach(url, token_file, tenant, data_dir, roles=("operator",)))


@program.command("cancel")
def cancel_command(
    execution: One = None, status: Statuses = None, intent: Intent = None, since: Since = None, reason: Reason = None,
    limit: Limit = 10_000, yes: Yes = False, dry_run: DryRun = False,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Cancels executions, undoing what completed: one by its id, or all that `--status running --intent …` finds."""
    body = {} if reason is None else {"reason": reason}
    asked = _Asked("cancel", execution, filters(status, intent, since, False), limit, yes, dry_run, as_json, body)
    _carry_out(asked, reach(url, token_file, tenant, data_dir, roles=("operator",)))


@program.command("terminate")
def terminate_command(
    execution: One = None, status: Statuses = None, intent: Intent = None, since: Since = None, reason: Reason = None,
    limit: Limit = 10_000, yes: Yes = False, dry_run: DryRun = False,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ends executions at once; nothing is waited for and nothing undone."""
    body = {} if reason is None else {"reason": reason}
    asked = _Asked("terminate", execution, filters(status, intent, since, False), limit, yes, dry_run, as_json, body)
    _carry_out(asked, reach(url, token_file, tenant, data_dir, roles=("operator",)))


@program.command("pause")
def pause_command(
    execution: One = None, status: Statuses = None, intent: Intent = None, since: Since = None, limit: Limit = 10_000,
    yes: Yes = False, dry_run: DryRun = False,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Pauses executions: what runs goes on, nothing further begins. One by its id, or all that `--status running …` finds."""
    asked = _Asked("pause", execution, filters(status, intent, since, False), limit, yes, dry_run, as_json)
    _carry_out(asked, reach(url, token_file, tenant, data_dir, roles=("operator",)))


@program.command("resume")
def resume_command(
    execution: One = None, status: Statuses = None, intent: Intent = None, since: Since = None, limit: Limit = 10_000,
    yes: Yes = False, dry_run: DryRun = False,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Lets paused executions go on: one by its id, or all that `--status paused …` finds."""
    asked = _Asked("resume", execution, filters(status, intent, since, False), limit, yes, dry_run, as_json)
    _carry_out(asked, reach(url, token_file, tenant, data_dir, roles=("operator",)))


def _carry_out(asked: _Asked, where: Reach) -> None:
    if asked.execution is not None and asked.wanted:
        raise PlatformError("Say which execution, or give filters; both at once say two things.")
    if asked.execution is None and not asked.wanted:
        raise PlatformError("Say which execution by its id, or which ones by --status, --intent or --since.")
    tally = run(_one(asked, where, asked.execution) if asked.execution is not None else _many(asked, where))
    if tally is None:
        return
    if asked.as_json:
        print_json({"done": tally.done, "refused": dict(tally.refused)})
    else:
        out.print(f"{asked.action}: {tally.done:,} done, {tally.refused.total():,} refused.")
        for reason, count in tally.refused.most_common(10):
            out.print(f"  {count:,} x {escape(reason)} [dim](such as {tally.examples[reason]})[/]")
    if tally.refused:
        raise typer.Exit(1)


async def _one(asked: _Asked, where: Reach, execution: str) -> Tally:
    tally = Tally()
    async with where.client() as client:
        answer = await _posted(client, _path(execution, asked.action), asked.body or {})
    if answer.is_success:
        tally.done += 1
    else:
        problem = answer.json() if "json" in answer.headers.get("Content-Type", "") else {}
        tally.refuse(execution, problem.get("title") or f"{answer.status_code}")
    return tally


async def _many(asked: _Asked, where: Reach) -> Tally | None:
    async with where.client() as client:
        what = {"action": asked.action, "filter": _filter(asked.wanted)}
        found = await _page(client, {**what, "dry_run": True, "limit": min(asked.limit, _PAGE)})
        count = min(found["count"], asked.limit)
        if not _has_leave(asked, count, found):
            return None
        tally = Tally()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, disable=asked.as_json or not err.is_terminal) as progress:
            task = progress.add_task(asked.action, total=count if found["count_is_exact"] else None)
            left, cursor = asked.limit, None
            while left > 0:
                more = {**(asked.body or {}), **({} if cursor is None else {"cursor": cursor})}
                page = await _page(client, {**what, **more, "limit": min(left, _PAGE)})
                tally.count(page["items"])
                left -= len(page["items"])
                progress.advance(task, len(page["items"]))
                cursor = page["next_cursor"]
                if cursor is None:
                    break
        return tally


def _filter(wanted: dict[str, str]) -> dict[str, Any]:
    return {name: value == "true" if name == "needs_attention" else value for name, value in wanted.items()}


def _has_leave(asked: _Asked, count: int, found: dict[str, Any]) -> bool:
    """Tells how many there are; true where they may be dealt with."""
    told = f"{count:,}" if found["count_is_exact"] or count < found["count"] else f"{count:,} or more"
    if asked.dry_run or not count:
        if asked.as_json:
            print_json({"found": count, "executions": [one["execution_id"] for one in found["items"]]})
        else:
            out.print(f"{asked.action}: {told} found" + (", nothing done." if asked.dry_run else "."))
            for one in found["items"][:_SHOWN] if asked.dry_run else ():
                out.print(f"  {one['execution_id']} {escape(one['intent_name'])} [dim]{one['status']}[/]")
        return False
    if asked.yes:
        return True
    if not sys.stdin.isatty():
        raise PlatformError(f"{told} executions would be asked to {asked.action}: say --yes, or --dry-run to see them.")
    return typer.confirm(f"{asked.action} {told} executions?")


async def _page(client: "Client", body: dict[str, Any]) -> dict[str, Any]:
    """One page of the filter, under a key of its own: asked again where the platform is busy, it is done once."""
    from quantum.client import QuantumError

    answer = await _posted(client, _path("bulk"), body, {"Idempotency-Key": str(uuid4())})
    if answer.is_error:
        raise QuantumError(answer._response)
    document: dict[str, Any] = answer.json()
    return document


async def _posted(client: "Client", path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> "Response":
    """One request, again where the platform is busy."""
    pause = 0.25
    for _ in range(_TRIES_MAX - 1):
        answer = await client.post(path, json=body, headers=headers or {})
        if answer.status_code not in _TRY_AGAIN:
            return answer
        await asyncio.sleep(float(answer.headers.get("Retry-After", pause)))
        pause *= 2
    return await client.post(path, json=body, headers=headers or {})
