# intent_ref: quantum.cli
"""What the commands of the program share: how they run, what they print, and the options that mean the same everywhere."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from rich.console import Console

T = TypeVar("T")
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Directory of the embedded database and the issuer's keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def print_json(data: Any) -> None:
    """Prints one JSON document on stdout."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
    sys.stdout.write(orjson.dumps(data, default=_plain, option=options).decode() + "\n")


def _plain(value: Any) -> str:
    """The driver's ids are a subclass of `UUID`, which orjson leaves to its caller."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
