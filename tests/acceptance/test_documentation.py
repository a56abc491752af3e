# intent_ref: tests.documentation
"""What the README and the pages under docs/ say is run or looked up, so that it cannot rot."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt
from prometheus_client.parser import text_string_to_metric_families

from quantum.cli import program
from quantum.settings import Settings, variable
from tests.acceptance.outside import Outside
from tests.platforms import temporary_directory

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> Iterator[str]:
    """The README's fenced blocks of a language."""
    for token in MarkdownIt().parse((ROOT / "README.md").read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == language:
            yield token.content


def run(words: list[str], outside: Outside, folder: Path, **environment: str) -> str:
    """What a program prints, run where the README's reader would be, against this platform."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("QUANTUM_")}
    surroundings |= {"QUANTUM_DATA_DIR": str(outside.data_dir), **environment}
    done = subprocess.run(words, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_readmes_examples_do_what_they_say(outside: Outside):
    with temporary_directory() as folder:
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        commands = "\n".join(["set -euo pipefail", *blocks("bash"), 'printf "\\nTOKEN=%s" "$TOKEN"'])
        printed = run(["bash", "-c", commands.replace(ADDRESS, outside.address)], outside, folder)
        for said in ('"name":"deploy-web-app"', "event: execution_completed", '"status": "completed"', "event: step_retrying",
                     "event: execution_failed", '"status":"running"', '"status":"cancelled"'):  # fmt: skip
            assert said in printed, printed
        assert "/problems/" not in printed
        token = printed.rpartition("TOKEN=")[2]
        (python,) = blocks("python")
        (folder / "first.py").write_text(python.replace(ADDRESS, outside.address))
        seen = run([sys.executable, "first.py"], outside, folder, TOKEN=token).split()
        assert seen == [
            "execution_started", "step_started", "build-docker-image", "step_completed", "build-docker-image", "step_started",
            "deploy-to-kubernetes", "step_completed", "deploy-to-kubernetes", "execution_completed",
        ]  # fmt: skip


def code(text: str) -> Iterator[str]:
    """Code, be it within a line or a block of it."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "fence":
            yield from token.content.splitlines()
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_targets_settings_and_links_that_a_page_names_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    settings = {variable(name) for name in Settings.model_fields}
    for line in code(text):
        for named in re.findall(r"\bmake ([a-z]+)\b", line):
            assert named in targets, f"make {named}"
        for named in re.findall(r"(?:^|[ (/])quantum ((?:[a-z][a-z-]* ?)+(?: --[a-z-]+)*)", line):
            _find(named.split())
        for named in re.findall(r"\bQUANTUM_[A-Z_]+\b", line):
            assert named in settings or named.startswith("QUANTUM_TEST_"), named
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def _find(words: list[str]) -> None:
    """Walks to the command that the words name; the first that is none of its names is an argument."""
    found: Any = typer.main.get_command(program)
    for word in words:
        if word.startswith("--"):
            assert any(word in one.opts for one in found.params), " ".join(words)
        elif hasattr(found, "commands"):
            assert word in found.commands, " ".join(words)
            found = found.commands[word]


async def test_every_metric_is_on_the_operations_page_and_none_that_is_not(outside: Outside):
    tenant = await outside.tenant()
    await tenant.ended(await tenant.start([{"action": "no-op"}]))
    families = text_string_to_metric_families((await outside.client.get("/metrics")).text)
    exposed = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Metrics")[2].partition("##")[0]
    documented = set(re.findall(r"`((?:quantum|http)_[a-z_]+)`", section))
    first_use = {"quantum_webhooks_attempt_duration_seconds"}  # there with the first webhook that is sent
    assert documented - first_use == exposed - first_use
    assert first_use <= documented
