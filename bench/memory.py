# intent_ref: bench.benchmarks
"""The memory of the API process: flat, however many commands it has obeyed."""

import psutil

from bench.api import _posts
from bench.ground import Figure, postgres, serving

COMMANDS = 100_000


async def measure(seconds: float) -> list[Figure]:
    """Resident MiB after a tenth of the commands (caches are warm then) and after all of them."""
    wanted = COMMANDS if seconds >= 5 else COMMANDS // 10
    async with postgres() as (folder, urls):
        with serving(folder, urls, ("write-api",)) as served:
            process = psutil.Process(served.processes["write-api"][0].pid)
            sent, warm = 0.0, 0.0
            while sent < wanted:
                result = await _posts(served.of("write-api"), served.token, 2, f"memory-{sent:.0f}")
                sent += sum(result["statuses"].values())
                if not warm and sent >= wanted / 10:
                    warm = process.memory_info().rss / 2**20
            after = process.memory_info().rss / 2**20
    what = f"memory of the write API after {sent:,.0f} commands"
    return [Figure(what, f"{after:.0f} MiB", f"{warm:.0f} MiB after a tenth", after / warm, 1.15, at_most=True)]
