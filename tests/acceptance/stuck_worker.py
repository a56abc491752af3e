# intent_ref: tests.workers
"""A worker that begins its one unit, says so, and never comes to its end: to be killed."""

import asyncio
import sys

from quantum.worker import Task, Worker

worker = Worker(sys.argv[1], sys.argv[2], tenant_id=sys.argv[3], concurrency=1)


@worker.action("press")
async def press(task: Task) -> None:
    """Never ends."""
    print(task.execution_id, flush=True)
    await asyncio.Event().wait()


worker.main()
