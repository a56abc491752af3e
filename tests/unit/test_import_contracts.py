# intent_ref: ground.import-contracts
"""Every import contract holds, and every one can fail: a planted violation breaks it."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGURATION = configparser.ConfigParser()
CONFIGURATION.read(ROOT / ".importlinter", encoding="utf-8")
CONTRACTS = {section.rsplit(":", 1)[1] for section in CONFIGURATION.sections() if ":contract:" in section}

# For each contract: the room a violation is planted in, and the import that breaks it.
VIOLATIONS = {
    "layers": ("domain", "import event_store.store"),
    "domain": ("domain", "import pydantic"),
    "commands": ("commands", "import opentelemetry.trace"),
    "modules": ("modules", "import event_store.records"),
    "streaming": ("streaming", "import commands.handle"),
    "sagas": ("sagas", "import projections.intents"),
    "access": ("access", "import commands.intent"),
    "projections": ("projections", "import commands.handle"),
    "read-api": ("read_api", "import commands.handle"),
    "write-api": ("write_api", "import projections.intents"),
    "web": ("sagas", "from fastapi import APIRouter"),
    "driver": ("read_api", "import asyncpg"),
    "adapters": ("access", "import aiokafka"),
}


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms and their contracts, in a place where violations can be planted."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / ".importlinter", tree)
    for room in CONFIGURATION["importlinter"]["root_packages"].split():
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def broken_contracts(tree: Path, *options: str) -> set[str]:
    """Names of the contracts that import-linter finds broken."""
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-cache", *options], cwd=tree, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "500"}, timeout=120,
    )  # fmt: skip
    assert "Contracts" in done.stdout, done.stdout + done.stderr
    broken = set(re.findall(r"^(.*) BROKEN$", done.stdout, re.MULTILINE))
    assert bool(broken) == (done.returncode != 0), done.stdout + done.stderr
    return broken


def test_each_contract_has_a_violation_to_try_it_with():
    assert set(VIOLATIONS) == CONTRACTS


def test_all_contracts_hold(copied_tree: Path):
    assert broken_contracts(copied_tree) == set()


def test_every_room_of_the_tree_is_under_contract():
    rooms = {init.parent.name for init in ROOT.glob("*/__init__.py")} - {"bench", "tests"}
    assert rooms == set(CONFIGURATION["importlinter"]["root_packages"].split())


@pytest.mark.parametrize("contract", sorted(VIOLATIONS))
def test_a_planted_violation_breaks_the_contract(copied_tree: Path, contract: str):
    room, statement = VIOLATIONS[contract]
    planted = copied_tree / room / "planted_violation.py"
    planted.write_text(f"{statement}\n")
    try:
        name = CONFIGURATION[f"importlinter:contract:{contract}"]["name"]
        assert broken_contracts(copied_tree, "--contract", contract) == {name}
    finally:
        planted.unlink()
