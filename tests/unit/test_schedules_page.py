# intent_ref: tests.schedules
"""What docs/schedules.md shows is so: its definitions are good, its times are right, its limits are those of the code."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from markdown_it import MarkdownIt

from commands.custom_event import DATA_BYTES_MAX, EVENTS_MAX
from commands.definitions import checked_definition
from commands.schedules import next_runs, read_schedule, schedule_faults
from domain.definition import DEFINITION_KEYS, Rules
from modules.catalogue import builtin, in_process
from modules.http import HttpModules
from quantum.settings import Settings
from quantum.step_commands import COMMANDS, StepCommands
from sagas.triggers import DEPTH_MAX

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
_TIMES = re.compile(r"\| `([^`]+)` \| `([A-Za-z]+/[A-Za-z_]+)` \| (\d{4}-\d\d-\d\d) \| ([\d:, ]+) \|")


def definitions() -> Iterator[dict[str, Any]]:
    """The page's blocks."""
    for token in MarkdownIt().parse(PAGE):
        if token.type == "fence" and token.info == "json":
            yield orjson.loads(token.content)


def test_definitions_on_the_page_are_good():
    running = {**in_process(HttpModules(allow_private=True), sandbox=True), **StepCommands(tuple(COMMANDS)).modules()}
    shown = list(definitions())
    assert len(shown) == 3
    for definition in shown:
        assert checked_definition(definition, builtin(running), Rules()).steps
        assert set(definition) <= set(DEFINITION_KEYS)


@pytest.mark.parametrize(("cron", "zone", "day", "runs"), _TIMES.findall(PAGE))
def test_times_on_the_page_are_right(cron: str, zone: str, day: str, runs: str):
    raw = {"cron": cron, "timezone": zone}
    assert schedule_faults(raw, "") == []
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    found = next_runs(read_schedule(raw), begin - timedelta(microseconds=1), 30)
    assert [f"{at:%H:%M}" for at in found if at < begin + timedelta(days=1)] == runs.split(", ")


def test_the_page_has_all_keys_commands_and_limits():
    assert len(_TIMES.findall(PAGE)) == 6
    (schedules, triggers) = (part for part in re.split("^## ", PAGE, flags=re.MULTILINE)[1:3])
    (keys,) = re.findall(r"it has ([a-z_, ]+)\.", schedule_faults({"cron": "@daily", "x": 1}, "")[0].detail)
    for key in keys.split(", "):
        assert f"`{key}`" in schedules, key
    assert "Five is the limit" in triggers
    assert DEPTH_MAX == 5
    allowed = Settings.model_fields["step_commands"].default
    listed = dict(re.findall(r"^\| `([a-z]+-[a-z]+)` \|.*\| (yes|no) \|$", PAGE, flags=re.MULTILINE))
    assert listed == {name: "yes" if name in allowed else "no" for name in COMMANDS}
    assert (DATA_BYTES_MAX, EVENTS_MAX) == (65_536, 10_000)
