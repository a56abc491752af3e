# intent_ref: tests.worker-kills
"""A worker that tests kill: it notes the key of each unit it carries out, in a file that all of them share.

`python -m tests.chaos.noting_worker ADDRESS TOKEN FILE`
"""

import asyncio
import os
import sys

from quantum.worker import Task, Worker

worker = Worker(sys.argv[1], sys.argv[2], concurrency=3, grace_seconds=1)
notes = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@worker.action("dig")
async def dig(task: Task) -> str:
    """Takes its time, then has its effect."""
    await asyncio.sleep(0.3)
    os.write(notes, f"{task.idempotency_key} .\n".encode())
    return task.idempotency_key


@worker.action("fill")
def fill(task: Task) -> str:
    """The same in a thread."""
    os.write(notes, f"{task.idempotency_key} .\n".encode())
    return task.idempotency_key


worker.main()
