# intent_ref: ground.packaging
"""The pins cover what the packages ask for, exactly, by hash, and tied to no machine."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> dict[str, Requirement]:
    """What a file of pins asks for, by name. Fails the test where a line is not an exact pin with hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        wanted, *hashes = line.split("--hash=")
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), line[:80]
        assert hashes, f"{name}: {wanted.strip()} has no hash"
        requirement = Requirement(wanted.strip())
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), f"{name}: {wanted.strip()} is not exact"
        found[canonicalize_name(requirement.name)] = requirement
    return found


def wanted(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    requirements = [Requirement(line) for line in lines]
    inner = {extra for one in requirements if one.name == PROJECT["name"] for extra in one.extras} - set(extras)
    if inner:
        return wanted(*extras, *sorted(inner))
    return [one for one in requirements if one.name != PROJECT["name"]]


@pytest.mark.parametrize(
    ("name", "extras"), [("constraints.txt", ("build",)), ("constraints-dev.txt", tuple(PROJECT["optional-dependencies"]))]
)
def test_every_requirement_is_pinned_to_a_version_it_allows(name: str, extras: tuple[str, ...]):
    pinned = pins(name)
    for requirement in wanted(*extras):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not in {name}: run `make pins`"
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version, prereleases=True), f"{name} has {pin}, {requirement} is asked for"


def test_development_runs_on_the_versions_that_the_platform_runs_on():
    development = pins("constraints-dev.txt")
    for name, pin in pins("constraints.txt").items():
        assert str(development[name].specifier) == str(pin.specifier)
