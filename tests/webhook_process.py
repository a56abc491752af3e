# intent_ref: tests.webhooks
"""A deliverer as a process of its own, to be killed: `python -m tests.webhook_process APP_DSN PLATFORM_DSN`."""

import asyncio
import sys
from datetime import UTC, datetime

from event_store.store import EventStore
from tests.webhook_world import SetClock, World


class RealClock(SetClock):
    """The time of day."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)


async def main(app_dsn: str, platform_dsn: str) -> None:
    """Delivers until it is killed."""
    store = await EventStore.connect(app_dsn=app_dsn, platform_dsn=platform_dsn)
    await World(store, RealClock()).dispatcher().run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
