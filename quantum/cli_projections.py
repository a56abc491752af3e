# intent_ref: quantum.cli
"""`quantum projections`: how far the read models have come, rebuilding them, and the events they could not take in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from quantum.cli_output import AsJson, DataDir, err, out, print_json, run
from quantum.settings import load_settings

if TYPE_CHECKING:
    from event_store.store import EventStore

Name = Annotated[str, typer.Argument(help="The projection's name; `list` shows them.")]
program = typer.Typer(no_args_is_help=True, help="Read models: state, rebuild, faults. Works with the platform up or down.")


class ProjectionError(Exception):
    """A projection cannot do what was asked; the sentence says why."""


@asynccontextmanager
async def _store(data_dir: Path | None) -> AsyncIterator["EventStore"]:
    from projections.catalogue import UnknownProjection
    from projections.checkpoints import NotPrepared
    from projections.rebuild import ShapeNotPrepared
    from projections.schema import RebuildUnderWay
    from quantum.databases import event_store

    async with event_store(load_settings(data_dir=data_dir)) as store:
        try:
            yield store
        except (UnknownProjection, RebuildUnderWay, ShapeNotPrepared, NotPrepared) as fault:
            raise ProjectionError(str(fault.args[0]) if fault.args else str(fault)) from fault


@program.command("list")
def list_command(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Each projection, how far it has come, and how many events it has set aside."""
    rows = run(_listed(data_dir))
    if as_json:
        print_json(rows)
        return
    table = Table("projection", "behind, events", "behind, seconds", "set aside", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], str(row["lag_events"]), str(row["lag_seconds"]), str(row["faults"]))
    out.print(table)


async def _listed(data_dir: Path | None) -> list[dict[str, Any]]:
    from projections.catalogue import READ_MODELS
    from projections.checkpoints import lag
    from projections.faults import list_faults

    rows = []
    async with _store(data_dir) as store:
        for model in READ_MODELS:
            behind = await lag(store, model.name)
            faults = len(await list_faults(store.platform_pool, model.name))
            rows.append(
                {"name": model.name, "lag_events": behind.events, "lag_seconds": round(behind.seconds, 3), "faults": faults}
            )
    return rows


@program.command("rebuild")
def rebuild_command(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Builds the read model anew from the log beside the one that serves, then switches; reads go on meanwhile."""
    position = run(_rebuilt(name, data_dir))
    if as_json:
        print_json({"name": name, "position": position})
    else:
        out.print(f"[bold]{name}[/] is rebuilt up to position {position} and serves.")


async def _rebuilt(name: str, data_dir: Path | None) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from projections.catalogue import read_model
    from projections.rebuild import rebuild

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with _store(data_dir) as store:
        model = read_model(name)
        with Progress(*columns, console=err) as progress:
            task = progress.add_task(f"rebuilding {name}", total=None)
            return await rebuild(store, model, lambda done, total: progress.update(task, completed=done, total=total))


@program.command()
def faults(
    name: Annotated[str | None, typer.Argument(help="Only of this projection.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Events that were set aside because a projection could not take them in, with the error."""
    rows = run(_faults(name, data_dir))
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("No event is set aside.")
    for row in rows:
        place = f"position {row['position']} · {row['tenant_id']}/{row['stream_id']}"
        reason = row["error"] or "waits behind an earlier one of its stream"
        out.print(f"[bold]{row['projection']}[/] {escape(place)} · {escape(reason)}")


async def _faults(name: str | None, data_dir: Path | None) -> list[dict[str, Any]]:
    from projections.catalogue import read_model
    from projections.faults import list_faults

    async with _store(data_dir) as store:
        if name is not None:
            read_model(name)
        return [asdict(fault) for fault in await list_faults(store.platform_pool, name)]


@program.command("retry")
def retry_command(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Applies the events that were set aside again, in order. Ends with status 1 if any is still left."""
    applied, left = run(_retried(name, data_dir))
    if as_json:
        print_json({"applied": applied, "left": left})
    else:
        out.print(f"{applied} applied, {left} still set aside.")
    if left:
        raise typer.Exit(1)


async def _retried(name: str, data_dir: Path | None) -> tuple[int, int]:
    from projections.catalogue import read_model
    from projections.faults import retry_faults

    async with _store(data_dir) as store:
        retried = await retry_faults(store, read_model(name))
        return retried.applied, retried.left
