# intent_ref: quantum.cli
"""`quantum streams`: messages that a consumer group has passed over, and the way back to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from quantum.cli_output import AsJson, DataDir, out, print_json, run
from quantum.settings import load_settings

if TYPE_CHECKING:
    from streaming.dead_letters import DeadLetters

program = typer.Typer(no_args_is_help=True, help="The stream of events: dead letters. Works with the platform up or down.")


class StreamError(Exception):
    """What was asked of a stream cannot be done; the sentence says why."""


@asynccontextmanager
async def _dead_letters(data_dir: Path | None) -> AsyncIterator["DeadLetters"]:
    from quantum.databases import event_store
    from streaming.dead_letters import DeadLetters, NoDeadLetter

    async with event_store(load_settings(data_dir=data_dir)) as store:
        try:
            yield DeadLetters(store)
        except NoDeadLetter as fault:
            raise StreamError(str(fault)) from fault


@program.command("dead-letters")
def dead_letters_command(
    group: Annotated[str | None, typer.Option(help="Only of this consumer group.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Messages that a consumer group has passed over because its handler refused each of them alone, with the reason."""
    rows = run(_listed(group, data_dir))
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("There are no dead letters.")
    for row in rows:
        place = f"position {row['position']} · {row['partition_key']} · {row['topic']} · {row['attempts']} attempts"
        asked = " · redrive asked for" if row["redrive_requested_at"] is not None else ""
        out.print(f"[bold]{escape(row['group'])}[/] {escape(place)}{asked} · {escape(row['reason'])}")


async def _listed(group: str | None, data_dir: Path | None) -> list[dict[str, Any]]:
    async with _dead_letters(data_dir) as letters:
        # The driver's class of UUID is not one that orjson knows.
        return [asdict(letter) | {"event_id": str(letter.event_id)} for letter in await letters.list(group)]


@program.command("redrive")
def redrive_command(
    group: Annotated[str, typer.Argument(help="The consumer group; `dead-letters` shows them.")],
    position: Annotated[int | None, typer.Option(min=1, help="The dead letter's position in the log.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters of the group.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hands dead letters to their group again: a consumer that runs takes them up within seconds."""
    if (position is None) == (not everything):
        raise typer.BadParameter("say either --position or --all")
    count = run(_redriven(group, position, data_dir))
    if as_json:
        print_json({"group": group, "requested": count})
    else:
        out.print(f"{count} dead letters go to [bold]{escape(group)}[/] again.")


async def _redriven(group: str, position: int | None, data_dir: Path | None) -> int:
    async with _dead_letters(data_dir) as letters:
        return await letters.redrive(group, position)
