# intent_ref: quantum.cli
"""`quantum events`: a tenant's events as they happen, and history played again, to the terminal or to an address."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from quantum.cli_output import DataDir, err, out, run
from quantum.cli_reach import Reach, Tenant, TokenFile, Url, reach

if TYPE_CHECKING:
    import httpx

    from quantum.client import Client

Types = Annotated[list[str] | None, typer.Option("--type", help="Only this type, such as quantum.execution.*; may be repeated.")]
Subject = Annotated[str | None, typer.Option(help="Only about this, such as execution/0193….")]
Since = Annotated[str | None, typer.Option(help="From this time on, RFC 3339 with its offset.")]
After = Annotated[str | None, typer.Option(help="Behind this token: an event's `position`.")]
program = typer.Typer(no_args_is_help=True, help="A tenant's events: as they happen, and again. Talks to a running platform.")

_PAGE_EVENTS = 500
_TRIES_MAX = 8
_PAUSE_SECONDS_MAX = 30.0
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_DELIVERY_SECONDS_MAX = 30.0


class EventsError(Exception):
    """Events cannot be passed on; the sentence says why, and how to go on."""


@program.command("tail")
def tail_command(
    tenant: Tenant = None, types: Types = None, subject: Subject = None, since: Since = None, after: After = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the tenant's first event.")] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print CloudEvents, one JSON object a line.")] = False,
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None,
) -> None:  # fmt: skip
    """Shows events as they happen, until Ctrl-C: from now on, unless a time, a token or --from-start says otherwise.

    Lost connections are taken up again; each event comes once.
    """
    where = reach(url, token_file, tenant, data_dir)
    start = after if after is not None or since is not None or from_start else "now"
    run(_tail(where, {"after": start, "since": since, "types": types or (), "subject": subject}, count, as_json=as_json))


async def _tail(where: Reach, wanted: dict[str, Any], count: int | None, *, as_json: bool) -> None:
    from contextlib import aclosing

    seen = 0
    async with where.client() as client, aclosing(client.events(**wanted)) as events:
        await client.get("/health/live")  # a wrong address is told at once; a stream would try again for minutes
        async for event in events:
            if as_json:
                _print_line(event)
            else:
                out.print(_sentence(event))
            seen += 1
            if count is not None and seen >= count:
                return


@program.command("replay")
def replay_command(
    tenant: Tenant = None, types: Types = None, subject: Subject = None, since: Since = None, after: After = None,
    until: Annotated[str | None, typer.Option(help="Up to this time, RFC 3339 with its offset.")] = None,
    to: Annotated[str | None, typer.Option(help="POST each to this address, as a structured CloudEvent. Unset: stdout.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events a second, at most.")] = None,
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None,
) -> None:  # fmt: skip
    """Plays history again, in order, up to what has happened by now: JSON lines to stdout, or to an address.

    At an address each event waits for the one before it to be taken (2xx). What does not answer is tried again for some
    minutes; then the replay stops and says how to go on. A receiver may get an event twice and knows it by its `id`.
    """
    where = reach(url, token_file, tenant, data_dir)
    wanted = {"since": since, "until": until, "types": ",".join(types or ()), "subject": subject}
    played, last = run(_replay(where, {name: value for name, value in wanted.items() if value}, after, to, rate))
    err.print(f"{played} events played." + (f" Go on behind them with --after {last}" if last else ""))


async def _replay(
    where: Reach, wanted: dict[str, str], after: str | None, to: str | None, rate: float | None
) -> tuple[int, str | None]:
    import httpx
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} events"), TextColumn("{task.description}"), TimeElapsedColumn())
    pace = _Pace(rate)
    played = 0
    async with where.client() as client, httpx.AsyncClient(timeout=_DELIVERY_SECONDS_MAX) as receiver:
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task("", total=None)
            async for event in _history(client, wanted, after):
                await pace.wait()
                if to is None:
                    _print_line(event)
                else:
                    await _deliver(receiver, to, event, after)
                after = event["position"]
                played += 1
                progress.update(task, completed=played, description=event["time"])
    return played, after


async def _history(client: "Client", wanted: dict[str, str], after: str | None) -> AsyncIterator[dict[str, Any]]:
    """What has happened by now, page by page."""
    while True:
        params = {**wanted, "limit": str(_PAGE_EVENTS), **({"after": after} if after else {})}
        page = await client.get("/api/v1/events", params=params)
        for event in page["items"]:
            yield event
        after = page["next_cursor"]
        if after is None:
            return


async def _deliver(receiver: "httpx.AsyncClient", to: str, event: dict[str, Any], after: str | None) -> None:
    """Hands an event over, with patience. Raises `EventsError` that says how to go on."""
    import httpx
    import orjson

    body = orjson.dumps(event)
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    pause, said = 0.5, ""
    for _ in range(_TRIES_MAX):
        try:
            answer = await receiver.post(to, content=body, headers=headers)
        except httpx.TransportError as fault:
            said = str(fault) or type(fault).__name__
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as fault:
            raise EventsError(f"{to} is no address to send events to: {fault}.") from fault
        else:
            if answer.is_success:
                return
            said = f"{answer.status_code} {answer.reason_phrase}"
            if answer.status_code not in _TRY_AGAIN:
                break
        await asyncio.sleep(pause)
        pause = min(pause * 2, _PAUSE_SECONDS_MAX)
    way_out = f" Go on with --after {after}" if after else ""
    raise EventsError(f"{to} did not take the event {event['id']} ({event['type']}): {said}.{way_out}")


class _Pace:
    """Lets through so many a second."""

    def __init__(self, rate: float | None) -> None:
        self._interval_seconds = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def wait(self) -> None:
        """Returns when the next may go."""
        if self._interval_seconds == 0.0:
            return
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now)
        await asyncio.sleep(self._next - now)
        self._next += self._interval_seconds


def _print_line(event: dict[str, Any]) -> None:
    import orjson

    try:
        sys.stdout.write(orjson.dumps(event).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def _sentence(event: dict[str, Any]) -> str:
    import orjson

    data = orjson.dumps(event["data"]).decode()
    shown = data if len(data) <= 160 else data[:159] + "…"
    kind = event["type"].removeprefix("quantum.")
    return f"[dim]{escape(event['time'])}[/] [bold]{escape(kind)}[/] {escape(event['subject'])} [dim]{escape(shown)}[/]"
