# intent_ref: bench.benchmarks
"""`python -m bench [append api catch-up size memory subscribers streaming …] [--quick] [--json FILE]`: a table of ratios."""

import argparse
import asyncio
from pathlib import Path

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench import api, append, catch_up, memory, orchestration, size, streaming, subscribers, webhooks
from bench.ground import Figure, tell
from quantum.server import collect_rarely

PARTS = {
    "append": append,
    "api": api,
    "catch-up": catch_up,
    "size": size,
    "memory": memory,
    "subscribers": subscribers,
    "streaming": streaming,
    "orchestration": orchestration,
    "webhooks": webhooks,
}


async def run(names: list[str], seconds: float, console: Console) -> list[Figure]:
    """Measures the parts one after the other."""
    figures = []
    for name in names:
        tell(f"measuring {name}")
        with console.status(f"measuring {name} …"):
            figures += await PARTS[name].measure(seconds)
    return figures


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(prog="bench", description="Each figure beside its peer or limit, in the same run.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; everything unless said")
    parser.add_argument("--quick", action="store_true", help="shorter runs, a smaller log")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    console = Console()
    collect_rarely()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(options.parts or list(PARTS), 2.0 if options.quick else 6.0, console))
    table = Table("what", "Quantum", "beside", "ratio", "reach", "", box=None, pad_edge=False)
    for one in found:
        reach = f"{'at most' if one.at_most else 'at least'} {one.reach:g}"
        table.add_row(one.what, one.ours, one.beside, f"{one.ratio:.2f}", reach, "[green]met[/]" if one.met else "[red]missed[/]")
    console.print(table)
    if options.json is not None:
        rows = [
            {"what": f.what, "ours": f.ours, "beside": f.beside, "ratio": f.ratio, "reach": f.reach, "met": f.met} for f in found
        ]
        options.json.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
