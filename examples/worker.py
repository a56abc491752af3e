# intent_ref: examples.modules
"""A worker for a `pull` module: `python examples/worker.py http://127.0.0.1:8000 TOKEN`, with a token of the role `service`.

It carries out `resize-image` (pretending) and `count-words`, several at a time, until it is interrupted.
"""

import asyncio
import sys

from quantum.worker import Task, TaskFailed, Worker

worker = Worker(sys.argv[1], sys.argv[2], concurrency=4)


@worker.action("resize-image")
async def resize_image(task: Task) -> dict[str, int]:
    """Takes a moment for each hundred pixels; stops early when nobody wants the picture any more."""
    width = task.parameters["width"]
    if width > 10_000:
        raise TaskFailed("too-wide", f"{width} pixels are more than this worker can do.", retryable=False)
    for _ in range(width // 100):
        if task.cancelled.is_set():
            raise TaskFailed("cancelled", "Nobody wants it any more.", retryable=False)
        await asyncio.sleep(0.01)
    return {"width": width, "height": width * 3 // 4}


@worker.action("count-words")
def count_words(task: Task) -> dict[str, int]:
    """Not async: it runs in a thread, and may block."""
    return {"words": len(task.parameters["text"].split())}


if __name__ == "__main__":
    worker.main()
