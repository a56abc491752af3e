# intent_ref: tests.event-hubs-transport
"""Consumer groups have to be made in an event hub by hand, so the page that says which has to know them all."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_names_every_group_that_consumes() -> None:
    groups = {
        found[1]
        for path in (ROOT / "sagas").glob("*.py")
        if "consume(GROUP" in (text := path.read_text(encoding="utf-8"))
        for found in re.finditer(r'^GROUP = "(.+)"$', text, re.MULTILINE)
    }
    assert len(groups) >= 4
    page = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    assert {group for group in groups if f"`{group}`" not in page} == set()
