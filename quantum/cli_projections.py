# intent_ref: quantum.cli
"""`quantum projections`: what the read models are up to, rebuilding them, and events they could not take in."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from event_store.store import EventStore
from projections.catalogue import READ_MODELS, UnknownProjection, read_model
from projections.checkpoints import NotPrepared, lag
from projections.faults import list_faults, retry_faults
from projections.rebuild import ShapeNotPrepared, rebuild
from projections.schema import RebuildUnderWay
from quantum.databases import databases
from quantum.settings import load_settings

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Directory of the embedded database.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The projection's name; `list` shows them.")]
program = typer.Typer(no_args_is_help=True, help="Read models: state, rebuild, faults. Works with the platform up or down.")
out = Console()


class ProjectionError(Exception):
    """A projection cannot do what was asked; the sentence says why."""


@asynccontextmanager
async def _store(data_dir: Path | None) -> AsyncIterator[EventStore]:
    settings = load_settings(data_dir=data_dir)
    async with databases(settings, join=True) as where:
        store = await EventStore.connect(app_dsn=where.app_dsn, platform_dsn=where.platform_dsn, direct_dsn=where.direct_dsn)
        try:
            yield store
        except (UnknownProjection, RebuildUnderWay, ShapeNotPrepared, NotPrepared) as fault:
            raise ProjectionError(str(fault.args[0]) if fault.args else str(fault)) from fault
        finally:
            await store.close()


def _run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _print_json(data: Any) -> None:
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode() + "\n")


@program.command("list")
def list_command(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Each projection, how far it has come, and how many events it has set aside."""
    rows = _run(_listed(data_dir))
    if as_json:
        _print_json(rows)
        return
    table = Table("projection", "behind, events", "behind, seconds", "set aside", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], str(row["lag_events"]), str(row["lag_seconds"]), str(row["faults"]))
    out.print(table)


async def _listed(data_dir: Path | None) -> list[dict[str, Any]]:
    async with _store(data_dir) as store:
        rows = []
        for model in READ_MODELS:
            behind = await lag(store, model.name)
            faults = await list_faults(store.platform_pool, model.name)
            rows.append(
                {"name": model.name, "lag_events": behind.events, "lag_seconds": round(behind.seconds, 3), "faults": len(faults)}
            )
        return rows


@program.command("rebuild")
def rebuild_command(name: Name, data_dir: DataDir = None) -> None:
    """Builds the read model anew from the log beside the one that serves, then switches; reads go on meanwhile."""
    _run(_rebuilt(name, data_dir))
    out.print(f"[bold]{name}[/] is rebuilt and serves.")


async def _rebuilt(name: str, data_dir: Path | None) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with _store(data_dir) as store:
        model = read_model(name)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(f"rebuilding {name}", total=None)
            await rebuild(store, model, lambda done, total: progress.update(task, completed=done, total=total))


@program.command()
def faults(
    name: Annotated[str | None, typer.Argument(help="Only of this projection.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Events that were set aside because a projection could not take them in, with the error."""
    rows = _run(_faults(name, data_dir))
    if as_json:
        _print_json(rows)
        return
    if not rows:
        out.print("No event is set aside.")
    for row in rows:
        out.print(
            f"[bold]{row['projection']}[/] position {row['position']} · {row['tenant_id']}/{row['stream_id']} · {row['error']}"
        )


async def _faults(name: str | None, data_dir: Path | None) -> list[dict[str, Any]]:
    async with _store(data_dir) as store:
        if name is not None:
            read_model(name)
        found = await list_faults(store.platform_pool, name)
        return [{field: getattr(fault, field) for field in fault.__slots__} for fault in found]


@program.command("retry")
def retry_command(name: Name, data_dir: DataDir = None) -> None:
    """Applies the events that were set aside again, in order."""
    retried = _run(_retried(name, data_dir))
    out.print(f"{retried.applied} applied, {retried.left} still set aside.")


async def _retried(name: str, data_dir: Path | None) -> Any:
    async with _store(data_dir) as store:
        return await retry_faults(store, read_model(name))
