# intent_ref: quantum.cli-triggers
"""`quantum triggers`: what events were to start and could not, with the reason, and the command that tries it again."""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote
from uuid import UUID

import typer
from rich.markup import escape
from rich.table import Table

from quantum.cli_output import AsJson, DataDir, out, print_json, run
from quantum.cli_reach import PlatformError, Reach, Tenant, TokenFile, Url, reach

if TYPE_CHECKING:
    from quantum.client import Client

program = typer.Typer(
    no_args_is_help=True,
    help="Triggers: executions that events were to start and that were refused. Talks to a running platform.",
)
Intent = Annotated[str, typer.Argument(help="The intent's id, or its name.")]
Events = Annotated[list[str] | None, typer.Option("--event", help="Only of the event with this id; may be repeated.")]
_API = "/api/v1/intents"
_PAGE = 200


@program.command("dead-letters")
def dead_letters_command(
    intent: Intent,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 1_000,
    tenant: Tenant = None, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Lists what an intent's trigger could not start and does not try again by itself, in the order of the events."""
    found = run(_listed(reach(url, token_file, tenant, data_dir), intent, limit))
    if as_json:
        print_json(found)
        return
    table = Table(box=None, header_style="dim")
    for column in ("event", "last tried", "tries", "reason"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(
            one["event_id"], one["last_at"], str(one["tries"]), escape(f"{one['error']['code']}: {one['error']['message']}")
        )
    out.print(table)


@program.command("retry")
def retry_command(
    intent: Intent, event: Events = None, tenant: Tenant = None, url: Url = None, token_file: TokenFile = None,
    data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Tries an intent's dead letters again, all or those of some events. Each starts one execution at most."""
    count = run(_settled(reach(url, token_file, tenant, data_dir, roles=("operator",)), intent, event, "retry"))
    if as_json:
        print_json({"count": count})
    else:
        out.print(f"{count} starts are tried again.")


@program.command("discard")
def discard_command(
    intent: Intent, event: Events = None, tenant: Tenant = None, url: Url = None, token_file: TokenFile = None,
    data_dir: DataDir = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Forgets an intent's dead letters, all or those of some events; the events stay in the log."""
    count = run(_settled(reach(url, token_file, tenant, data_dir, roles=("operator",)), intent, event, "discard"))
    if as_json:
        print_json({"count": count})
    else:
        out.print(f"{count} dead letters are forgotten.")


async def _listed(where: Reach, intent: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with where.client() as client:
        path, cursor = await _path(client, intent), None
        while len(found) < limit:
            query = {"limit": str(min(_PAGE, limit - len(found))), **({"cursor": cursor} if cursor else {})}
            answer = await client.get(path, params=query)
            found += answer["items"]
            cursor = answer["next_cursor"]
            if cursor is None:
                break
    return found


async def _settled(where: Reach, intent: str, events: list[str] | None, how: str) -> int:
    async with where.client() as client:
        body = {"event_ids": events} if events else {}
        answer = await client.post(f"{await _path(client, intent)}/{how}", json=body)
        count: int = answer["count"]
        return count


async def _path(client: "Client", intent: str) -> str:
    """The address of an intent's dead letters. Raises `PlatformError` where no intent has this name."""
    if not _is_id(intent):
        answer = await client.get(_API, params={"name": intent, "limit": "1"})
        if not answer["items"]:
            raise PlatformError(f"There is no intent named {intent!r} in this tenant.")
        intent = answer["items"][0]["id"]
    return f"{_API}/{quote(intent, safe='')}/trigger/dead-letters"


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
