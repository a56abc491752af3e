# intent_ref: tests.documentation
"""The receiver on the page about webhooks, run as its reader would run it."""

import os
import subprocess
import sys
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import Database
from tests.http_platform import serving
from tests.platforms import free_port, temporary_directory
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


async def test_the_pages_receiver_verifies_what_the_platform_sends(database: Database, tmp_path: Path):
    (example,) = [
        one.content for one in MarkdownIt().parse(PAGE.read_text("utf-8")) if one.type == "fence" and one.info == "python"
    ]
    port = free_port()
    with temporary_directory() as folder:
        (folder / "receiver.py").write_text(example)
        async with serving(database, tmp_path, private_addresses=True) as http:
            tenant = await http.tenant()
            made = await tenant.post("/subscriptions", {"url": f"http://127.0.0.1:{port}/", "types": ["quantum.intent.*"]})
            environment = {**os.environ, "WEBHOOK_SECRET": made.json()["secret"], "PORT": str(port)}
            with (folder / "printed").open("wb") as printed, (folder / "errors").open("wb") as errors:
                process = subprocess.Popen(  # noqa: ASYNC220 - starts it and goes on
                    [sys.executable, "receiver.py"], cwd=folder, env=environment, stdout=printed, stderr=errors
                )  # fmt: skip
            try:
                created = await tenant.intent("for-the-receiver")
                line = f"quantum.intent.created.v1 intent/{created.json()['id']}"
                await wait_until(lambda: line in (folder / "printed").read_text(), 30, what="the verified event")
                await tenant.intent("another")
                await wait_until(lambda: (folder / "printed").read_text().count("\n") == 2, 30, what="the next")
                assert " 401 " not in (folder / "errors").read_text()
            finally:
                process.kill()
                process.wait()
