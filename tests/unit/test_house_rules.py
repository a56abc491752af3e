# intent_ref: ground.house-rules
"""The tree keeps the house rules, and a tree that breaks one is found out."""

from pathlib import Path

import pytest

from tests.house_rules import LINES_MAX, intent_faults, name_faults, repeated_test_names, size_faults, text_faults

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that keeps every rule."""
    (tmp_path / "domain").mkdir()
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "intents.toml").write_text('# intent_ref: ground.intents\nground.intents = "The list"\ndomain.tea = "Tea"\n')
    (tmp_path / "domain" / "tea.py").write_text("# intent_ref: domain.tea\n")
    (tmp_path / "domain" / "tea.sql").write_text("-- intent_ref: domain.tea\n")
    (tmp_path / "domain" / "brew.sh").write_text("#!/bin/sh\n# intent_ref: domain.tea\n")
    (tmp_path / "notes.md").write_text("# Tea\n")
    return tmp_path


def test_every_source_file_says_what_it_is_for_and_every_intent_has_a_file():
    assert intent_faults(ROOT) == []


def test_files_stay_small():
    assert size_faults(ROOT) == []


def test_names_say_what_is_inside():
    assert name_faults(ROOT) == []


def test_the_tree_names_no_index_and_no_machine():
    assert text_faults(ROOT) == []


def test_test_files_have_names_of_their_own():
    assert repeated_test_names(ROOT) == []


def test_a_tree_that_keeps_the_rules_has_no_faults(tree: Path):
    for rule in (intent_faults, size_faults, name_faults, text_faults, repeated_test_names):
        assert rule(tree) == []


@pytest.mark.parametrize("content", ["", "import tea\n", "import tea\n# intent_ref: domain.tea\n"])
def test_a_source_file_without_its_line_is_found(tree: Path, content: str):
    (tree / "domain" / "pot.py").write_text(content)
    assert intent_faults(tree) == ["domain/pot.py: its first line should be `# intent_ref: <id>`"]


def test_an_id_that_is_not_registered_is_found(tree: Path):
    (tree / "domain" / "pot.py").write_text("# intent_ref: domain.pot\n")
    assert intent_faults(tree) == ["domain/pot.py: domain.pot is not in intents.toml"]


def test_a_registered_id_without_a_file_is_found(tree: Path):
    with (tree / "intents.toml").open("a") as file:
        file.write('domain.pot = "A pot"\n')
    assert intent_faults(tree) == ["intents.toml: no source file carries domain.pot"]


@pytest.mark.parametrize("line", ['pot = "A pot"\n', 'domain.Pot = "A pot"\n', 'domain.pot = ""\n', 'domain.pot = "A\\npot"\n'])
def test_an_entry_that_is_not_an_id_with_one_line_is_found(tree: Path, line: str):
    with (tree / "intents.toml").open("a") as file:
        file.write(line)
    assert intent_faults(tree)


def test_a_long_file_is_found(tree: Path):
    (tree / "domain" / "tea.py").write_text("# intent_ref: domain.tea\n" * (LINES_MAX + 1))
    assert size_faults(tree) == [f"domain/tea.py: {LINES_MAX + 1} lines, {LINES_MAX} at most: split it by concept"]


@pytest.mark.parametrize("name", ["utils.py", "common/tea.py", "manager.sql"])
def test_a_name_that_says_nothing_is_found(tree: Path, name: str):
    path = tree / "domain" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert [fault.split(":")[0] for fault in name_faults(tree)] == [f"domain/{name}"]


@pytest.mark.parametrize(
    "text",
    [
        "pip install --" + "index-url x", "https://packages.example/" + "simple/", "cd /ho" + "me/someone/quantum",
        "see /wo" + "rk/main",
    ],
)  # fmt: skip
def test_an_index_address_or_a_machines_path_is_found(tree: Path, text: str):
    (tree / "notes.md").write_text(f"# Tea\n\n{text}\n")
    (fault,) = text_faults(tree)
    assert fault.startswith("notes.md:3: ")


def test_two_test_files_of_one_name_are_found(tree: Path):
    (tree / "tests" / "test_tea.py").write_text("")
    (tree / "tests" / "unit" / "test_tea.py").write_text("")
    assert len(repeated_test_names(tree)) == 1


def test_what_tools_and_virtual_environments_leave_is_not_ours_to_check(tree: Path):
    for folder in (".venv", "__pycache__", ".mypy_cache"):
        (tree / folder).mkdir()
        (tree / folder / "utils.py").write_text("")
    assert intent_faults(tree) + name_faults(tree) == []
