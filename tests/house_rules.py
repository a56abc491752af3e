# intent_ref: ground.house-rules
"""The house rules that no linter has. Each function answers with a sentence for every fault in a tree."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

LINES_MAX = 400
_SOURCE_SUFFIXES = {".py", ".sql", ".sh", ".toml", ".yaml", ".yml", ".tf", ".tpl", ".js", ".css"}
_SOURCE_NAMES = {"Makefile", "Dockerfile", ".importlinter", ".dockerignore", "run", "constraints.txt", "constraints-dev.txt"}
_NOT_OURS = {
    ".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", "dist",
    "data", "node_modules", "target",
}  # fmt: skip
_FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common"}
_REFERENCE = re.compile(r"^\W{0,4}\s*intent_ref: (\S+)")
_ID = re.compile(r"^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+$")
# Parts in brackets, so that this file does not find itself.
_FORBIDDEN_TEXTS = {
    "an index address": re.compile(r"https?://[^\s\"']+/[s]imple\b|--(extra-)?[i]ndex-url|--[f]ind-links"),
    "a path of one machine": re.compile(r"(?<![\w.])/([h]ome|[U]sers)/\w+|(?<![\w.])/[r]oot/\w|(?<![\w.])/[w]ork/(main|notes)"),
}


def files_of(root: Path) -> Iterator[Path]:
    """Every file of the tree that is ours, in order."""
    for path in sorted(root.iterdir()):
        if path.name in _NOT_OURS or path.name.endswith(".egg-info") or path.is_symlink():
            continue
        if path.is_dir():
            yield from files_of(path)
        else:
            yield path


def registered_intents(root: Path) -> dict[str, str]:
    """Id and meaning of every intent in `intents.toml`."""
    found: dict[str, str] = {}

    def flatten(table: dict[str, object], prefix: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = str(value)

    flatten(tomllib.loads((root / "intents.toml").read_text(encoding="utf-8")), "")
    return found


def intent_faults(root: Path) -> list[str]:
    """Source files without a registered intent, and registered intents without a source file."""
    registered = registered_intents(root)
    faults = [f"intents.toml: {id} should read room.id" for id in registered if not _ID.match(id)]
    faults += [f"intents.toml: {id} should say in one line what it is for" for id, meaning in registered.items()
               if not meaning.strip() or "\n" in meaning]  # fmt: skip
    used = set()
    for path in files_of(root):
        if path.suffix not in _SOURCE_SUFFIXES and path.name not in _SOURCE_NAMES:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        first = lines[1] if len(lines) > 1 and lines[0].startswith("#!") else next(iter(lines), "")
        match = _REFERENCE.match(first)
        if match is None:
            faults.append(f"{path.relative_to(root)}: its first line should be `# intent_ref: <id>`")
        elif match[1] not in registered:
            faults.append(f"{path.relative_to(root)}: {match[1]} is not in intents.toml")
        else:
            used.add(match[1])
    return faults + [f"intents.toml: no source file carries {id}" for id in registered if id not in used]


def size_faults(root: Path) -> list[str]:
    """Source files too long to hold in the head. Test files may be longer: nobody reads them from end to end."""
    faults = []
    for path in files_of(root):
        if path.suffix in {".py", ".sql"} and path.relative_to(root).parts[0] != "tests":
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > LINES_MAX:
                faults.append(f"{path.relative_to(root)}: {count} lines, {LINES_MAX} at most: split it by concept")
    return faults


def name_faults(root: Path) -> list[str]:
    """Files and folders whose name says nothing of what they are for."""
    return [
        f"{path.relative_to(root)}: a name of this kind says nothing of what is inside"
        for path in files_of(root)
        if _FORBIDDEN_NAMES & {path.stem.lower(), *(part.lower() for part in path.relative_to(root).parts[:-1])}
    ]


def text_faults(root: Path) -> list[str]:
    """Package index addresses and paths of one machine, which would bind the tree to it."""
    faults = []
    for path in files_of(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for what, pattern in _FORBIDDEN_TEXTS.items():
            if match := pattern.search(text):
                faults.append(f"{path.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match[0]}")
    return faults


def repeated_test_names(root: Path) -> list[str]:
    """Test files that share a name, which pytest's import mode does not tell apart in reports."""
    seen: dict[str, Path] = {}
    faults = []
    for path in files_of(root / "tests"):
        if path.name.startswith("test_") and path.suffix == ".py":
            if path.name in seen:
                faults.append(f"{path.relative_to(root)}: {seen[path.name].relative_to(root)} has the same name")
            seen[path.name] = path
    return faults
