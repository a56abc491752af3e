# intent_ref: quantum.cli-executions
"""`quantum executions`: what runs and what went wrong, live; and what to do about it, for one or for many."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from access.roles import Role
from domain.execution import ExecutionStatus
from domain.step_policies import seconds_of
from quantum.cli_output import AsJson, DataDir, out, print_json, run
from quantum.cli_reach import PlatformError, Reach, Tenant, TokenFile, Url, reach
from quantum.execution_tree import ENDED, execution_tree

if TYPE_CHECKING:
    from quantum.client import Client

program = typer.Typer(
    no_args_is_help=True, help="Executions: what runs, what went wrong, and what to do. Talks to a running platform."
)
Execution = Annotated[str, typer.Argument(help="The execution's id.")]
Statuses = Annotated[str | None, typer.Option("--status", help=f"Only these: {', '.join(get_args(ExecutionStatus))}.")]
Intent = Annotated[str | None, typer.Option("--intent", help="Only of intents of this name.")]
Since = Annotated[str | None, typer.Option(help="Only what started after this time (RFC 3339), or this long ago: 30m, 2h, 7d.")]
Attention = Annotated[bool, typer.Option("--needs-attention", help="Only where something could not be undone.")]
Roles = Annotated[list[str] | None, typer.Option("--role", help=f"As whom; may be repeated: {', '.join(get_args(Role))}.")]
_REFRESH_SECONDS = 0.2
_LAST_LOOK_SECONDS_MAX = 5.0
_PAGE = 200
_API = "/api/v1/executions"


def filters(status: str | None, intent: str | None, since: str | None, needs_attention: bool) -> dict[str, str]:
    """The query that these options are. Raises `PlatformError` for a time that is none."""
    found = {"status": status, "intent_name": intent, "started_after": None if since is None else _time(since)}
    found["needs_attention"] = "true" if needs_attention else None
    return {name: value for name, value in found.items() if value is not None}


def _time(since: str) -> str:
    if (seconds := seconds_of(since)) is not None:
        return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    try:
        at = datetime.fromisoformat(since)
    except ValueError as fault:
        raise PlatformError(f"{since!r} is no time: write 2h, 7d, or 2026-11-21T09:30:00Z.") from fault
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).isoformat()


@program.command("list")
def list_command(
    status: Statuses = None, intent: Intent = None, since: Since = None, needs_attention: Attention = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Lists executions, newest first. What failed is what `--status failed` shows: the dead letters, with their reasons."""
    wanted = filters(status, intent, since, needs_attention)
    found = run(_listed(reach(url, token_file, tenant, data_dir), wanted, limit))
    if as_json:
        print_json(found)
        return
    table = Table(box=None, header_style="dim")
    for column in ("id", "intent", "status", "started", "steps", ""):
        table.add_column(column, overflow="fold")
    for one in found:
        done = sum(step["status"] in ("completed", "skipped") for step in one["steps"])
        why = one["error"]["message"] if one["error"] and "message" in one["error"] else one["reason"] or ""
        if one["not_undone"]:
            why += f" - not undone: {', '.join(one['not_undone'])}"
        cells = (one["id"], f"{one['intent_name']} v{one['version']}", one["status"], one["started_at"])
        table.add_row(*map(escape, cells), f"{done}/{len(one['steps'])}", escape(why))
    out.print(table)
    if len(found) == limit:
        out.print(f"[dim]The first {limit}; more with --limit.[/]")


async def _listed(where: Reach, wanted: dict[str, str], limit: int) -> list[dict[str, Any]]:
    async with where.client() as client:
        return await matching(client, wanted, limit)


async def matching(client: "Client", wanted: dict[str, str], limit: int) -> list[dict[str, Any]]:
    """The executions that fit, newest first, at most `limit`, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < limit:
        query = {**wanted, "limit": str(min(_PAGE, limit - len(found))), **({"cursor": cursor} if cursor else {})}
        answer = await client.get(_API, params=query)
        found += answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    return found


@program.command("show")
def show_command(
    execution: Execution, tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Shows an execution with its steps."""
    document = run(_read(reach(url, token_file, tenant, data_dir), _path(execution)))
    if as_json:
        print_json(document)
    else:
        out.print(execution_tree(document))


@program.command("explain")
def explain_command(
    execution: Execution, tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Says why each step that is not over has not come further."""
    document = run(_read(reach(url, token_file, tenant, data_dir), _path(execution, "explain")))
    if as_json:
        print_json(document)
        return
    out.print(escape(document["sentence"]))
    for one in document["steps"]:
        out.print(f"  [bold]{escape(one['step'])}[/] [dim]{one['status']}[/] {escape(one['sentence'])}")


async def _read(where: Reach, path: str) -> dict[str, Any]:
    async with where.client() as client:
        return await _got(client, path)


async def _got(client: "Client", path: str) -> dict[str, Any]:
    from quantum.client import QuantumError

    answer = await client.get(path)
    if answer.is_error:
        raise QuantumError(answer._response)
    document: dict[str, Any] = answer.json()
    return document


@program.command("watch")
def watch_command(
    execution: Execution, tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events, one JSON object a line.")] = False,
) -> None:  # fmt: skip
    """Follows an execution to its end. The status is 0 when it has completed, 1 when it has ended otherwise."""
    where = reach(url, token_file, tenant, data_dir)
    document = run(_events(where, execution) if as_json else _watched(where, execution))
    if document["status"] != "completed":
        raise typer.Exit(1)


async def _events(where: Reach, execution: str) -> dict[str, Any]:
    import orjson

    async with where.client() as client:
        async for event in client.stream(_path(execution, "events")):
            sys.stdout.write(orjson.dumps(event).decode() + "\n")
            sys.stdout.flush()
        return await _ended(client, execution)


async def _watched(where: Reach, execution: str) -> dict[str, Any]:
    """Draws the tree anew after events, a few times a second at most, so that a busy execution is no flicker."""
    from rich.live import Live

    async with where.client() as client:
        document = await _got(client, _path(execution))
        with Live(execution_tree(document), console=out, auto_refresh=False, vertical_overflow="visible") as live:
            changed = asyncio.Event()

            async def follow() -> None:
                async for _ in client.stream(_path(execution, "events")):
                    changed.set()

            following = asyncio.create_task(follow())
            try:
                while not following.done():
                    waiting = asyncio.create_task(changed.wait())
                    await asyncio.wait((following, waiting), return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    changed.clear()
                    live.update(execution_tree(await _got(client, _path(execution))), refresh=True)
                    await asyncio.sleep(_REFRESH_SECONDS)
                await following
                document = await _ended(client, execution)
                live.update(execution_tree(document), refresh=True)
            finally:
                following.cancel()
        return document


async def _ended(client: "Client", execution: str) -> dict[str, Any]:
    """The execution as it has ended: what is read may be a moment behind its events."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LAST_LOOK_SECONDS_MAX
    while True:
        document = await _got(client, _path(execution))
        if document["status"] in ENDED or loop.time() > deadline:
            return document
        await asyncio.sleep(_REFRESH_SECONDS)


@program.command("approve")
def approve_command(
    execution: Execution, step: Annotated[str, typer.Argument(help="The step, or an item of it, such as deploy[2].")],
    comment: Annotated[str | None, typer.Option(help="What there is to say about it.")] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Reject it: the step fails.")] = False, roles: Roles = None,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Approves a step that waits for it, or rejects it."""
    where = reach(url, token_file, tenant, data_dir, roles=roles or ("operator",))
    path = _path(execution, "steps", step, "reject" if reject else "approve")
    _told(run(_sent(where, path, {} if comment is None else {"comment": comment})), as_json)


@program.command("signal")
def signal_command(
    execution: Execution, name: Annotated[str, typer.Argument(help="The signal's name.")],
    payload: Annotated[str, typer.Argument(help="Its payload as JSON; `-` reads it from stdin.")] = "null",
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Sends a signal to an execution; it is kept until a step asks for it."""
    import orjson

    try:
        value = orjson.loads(sys.stdin.read() if payload == "-" else payload)
    except orjson.JSONDecodeError as fault:
        raise PlatformError(f"The payload is not JSON: {fault}.") from fault
    where = reach(url, token_file, tenant, data_dir, roles=("operator",))
    _told(run(_sent(where, _path(execution, "signals", name), value)), as_json)


async def _sent(where: Reach, path: str, body: Any) -> dict[str, Any]:
    async with where.client() as client:
        answer = await client.post(path, json=body)
        _ = answer["execution_id"]  # raises what was refused
        receipt: dict[str, Any] = answer.json()
        return receipt


def _told(receipt: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(receipt)
    else:
        out.print(f"The execution {receipt['execution_id']} is [bold]{receipt['status']}[/].")


def _path(*parts: str) -> str:
    return "/".join([_API, *(quote(part, safe="") for part in parts)])
