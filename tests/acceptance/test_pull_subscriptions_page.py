# intent_ref: tests.documentation
"""The reader on the page about pull subscriptions, run as its own reader would run it."""

import os
import subprocess
import sys
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import Database
from tests.http_platform import API, serving
from tests.platforms import temporary_directory
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "pull-subscriptions.md"


async def test_the_pages_reader_gets_and_acknowledges_everything(database: Database, tmp_path: Path):
    (example,) = [
        one.content for one in MarkdownIt().parse(PAGE.read_text("utf-8")) if one.type == "fence" and one.info == "python"
    ]
    with temporary_directory() as folder:
        (folder / "reader.py").write_text(example)
        async with serving(database, tmp_path) as http:
            tenant = await http.tenant()
            made = await tenant.post("/pull-subscriptions", {"types": ["quantum.intent.*"]})
            path = f"/pull-subscriptions/{made.json()['id']}"
            environment = {
                **os.environ, "SUBSCRIPTION": http.address + API + path, "TOKEN": http.token(tenant.id, roles=["service"]),
            }  # fmt: skip
            with (folder / "printed").open("wb") as printed:
                process = subprocess.Popen(  # noqa: ASYNC220 - starts it and goes on
                    [sys.executable, "reader.py"], cwd=folder, env=environment, stdout=printed
                )
            try:
                ids = [(await tenant.intent(f"intent-{number}")).json()["id"] for number in range(3)]
                wanted = "".join(f"quantum.intent.created.v1 intent/{id}\n" for id in ids)
                await wait_until(lambda: (folder / "printed").read_text() == wanted, 30, what="all events, each once")

                async def is_done() -> bool:
                    return bool((await tenant.get(path)).json()["leased"] == 0)

                await wait_until(is_done, what="the acknowledgements")
            finally:
                process.kill()
                process.wait()
