# intent_ref: bench.orchestration
"""DBOS carrying out workflows of five no-op steps: `python -m bench.peer_dbos DSN SECONDS IN_FLIGHT NAME`.

Prints workflows and seconds, for asynchronous and for threaded workflows, whichever is faster. Sixteen connections that are not
tried out before each use were the best setting found; `NAME` tells processes apart that share the work.
"""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

from dbos import DBOS, DBOSConfig

from bench.ground import WARM_UP_SECONDS, repeated

STEPS = 5
POOL = 16


@DBOS.step()
async def nothing() -> None:
    """A step."""


@DBOS.workflow()
async def five_steps() -> None:
    """A workflow."""
    for _ in range(STEPS):
        await nothing()


@DBOS.step()
def nothing_threaded() -> None:
    """A step on a thread."""


@DBOS.workflow()
def five_steps_threaded() -> None:
    """A workflow on a thread."""
    for _ in range(STEPS):
        nothing_threaded()


async def asynchronous(seconds: float, in_flight: int) -> tuple[int, float]:
    """(workflows, seconds) with so many coroutines."""
    return await repeated(five_steps, seconds, in_flight)


def threaded(seconds: float, in_flight: int) -> tuple[int, float]:
    """(workflows, seconds) with so many threads."""

    def caller(ends: float) -> int:
        count = 0
        while time.perf_counter() < ends:
            five_steps_threaded()
            count += 1
        return count

    with ThreadPoolExecutor(in_flight) as pool:
        for period in (WARM_UP_SECONDS, seconds):
            began = time.perf_counter()
            count = sum(pool.map(caller, [began + period] * in_flight))
    return count, time.perf_counter() - began


def main(dsn: str, seconds: float, in_flight: int, name: str) -> None:
    """Runs both ways and prints the better one."""
    parts = urlsplit(dsn)
    socket = parse_qs(parts.query)["host"][0]
    url = f"postgresql://postgres@/dbos_peer?host={socket}"
    os.environ["DBOS__VMID"] = name
    config: DBOSConfig = {
        "name": "peer", "system_database_url": url, "sys_db_pool_size": POOL, "log_level": "ERROR",
        "db_engine_kwargs": {"pool_size": POOL, "max_overflow": 0, "pool_timeout": 30, "pool_pre_ping": False},
    }  # fmt: skip
    DBOS(config=config)
    DBOS.launch()
    try:
        figures = [asyncio.run(asynchronous(seconds, in_flight)), threaded(seconds, in_flight)]
    finally:
        DBOS.destroy()
    best = max(figures, key=lambda figure: figure[0] / figure[1])
    print(best[0], best[1])


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
