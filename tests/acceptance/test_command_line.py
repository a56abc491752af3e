# intent_ref: tests.command-line
"""The program `quantum`: help everywhere, JSON where it prints data, and commands that work with the platform up and down."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from quantum import cli
from quantum.cli import program
from tests.acceptance.outside import API, Outside, command
from tests.platforms import temporary_directory

PROJECTIONS = {"tenants", "intents", "intent_search", "executions", "resources", "modules", "subscriptions"}


def commands(group: Any, *way: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, found in group.commands.items():
        yield (*way, name), found
        if hasattr(found, "commands"):
            yield from commands(found, *way, name)


ALL = dict(commands(typer.main.get_command(program)))


def printed(*words: str, data_dir: Path, **settings: str) -> Any:
    """The JSON that a command prints, which must have succeeded."""
    done = command(*words, "--json", data_dir=data_dir, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def down() -> Iterator[Path]:
    """The data directory of a platform that is down, with the tenant `early`, which was registered before any start."""
    with temporary_directory() as directory:
        created = printed("tenant", "create", "early", "--name", "Early bird", data_dir=directory / "data")
        assert created.items() >= {"id": "early", "name": "Early bird", "status": "active"}.items()
        yield directory / "data"


def test_the_contracts_commands_are_there():
    assert {("serve",), ("token",), ("tenant", "create"), ("migrate",), ("projections", "list"), ("projections", "rebuild"),
            ("doctor",), ("demo",)} <= set(ALL)  # fmt: skip


@pytest.mark.parametrize("way", ALL, ids=" ".join)
def test_every_command_explains_itself_and_every_option_says_what_it_does(way: tuple[str, ...]):
    found = ALL[way]
    assert found.help, f"{way} has no help"
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"{' '.join(way)}: {parameter.name} says nothing"
    shown = CliRunner().invoke(program, [*way, "--help"])
    assert shown.exit_code == 0
    assert found.help.split(".")[0].split()[0] in shown.stdout


def test_help_and_version_end_with_status_0_and_mistakes_with_2():
    for words in (["--help"], ["--version"]):
        done = command(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
    assert command("fly").returncode == 2
    for words in (["token"], ["serve", "--wings"], ["tenant", "create"], ["projections", "rebuild"], ["tenant", "fly"]):
        assert CliRunner().invoke(program, words).exit_code == 2


def test_every_fault_that_is_told_in_a_sentence_exists():
    for module, names in cli._EXPECTED.items():
        for name in names:
            assert issubclass(getattr(import_module(module), name), Exception)


def test_token_refuses_what_no_token_can_say(tmp_path: Path):
    for words in (
        ["--tenant", "Not A Tenant", "--role", "author"], ["--tenant", "t", "--role", "emperor"],
        ["--tenant", "t", "--role", "author", "--hours", "0"],
    ):  # fmt: skip
        done = command("token", *words, data_dir=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("quantum: ")
        assert "Traceback" not in done.stderr
    (tmp_path / "keys" / "issuer.jwk").write_text("{}")
    broken = command("token", "--tenant", "t", "--role", "author", data_dir=tmp_path)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "issuer.jwk" in broken.stderr


async def test_a_tenant_is_created_while_the_platform_is_up(outside: Outside):
    created = printed("tenant", "create", "walk-in", data_dir=outside.data_dir)
    assert created["id"] == created["name"] == "walk-in"
    headers = outside.bearer("walk-in", "author")
    body = {"name": "n", "definition": {"target": "t", "steps": []}}
    assert (await outside.client.post(f"{API}/intents", json=body, headers=headers)).status_code == 201
    again = command("tenant", "create", "walk-in", data_dir=outside.data_dir)
    assert again.returncode == 1
    assert "walk-in" in again.stderr
    assert "registered already" in again.stderr


def test_a_tenant_that_cannot_be_is_refused_in_a_sentence(outside: Outside):
    done = command("tenant", "create", "Not A Tenant", data_dir=outside.data_dir)
    assert done.returncode == 1
    assert "lower-case letters, digits and inner hyphens" in done.stderr


async def test_projections_are_listed_rebuilt_and_retried_while_the_platform_is_up(outside: Outside):
    tenant = await outside.tenant()
    created = await tenant.intent([])
    rows = printed("projections", "list", data_dir=outside.data_dir)
    assert {row["name"] for row in rows} == PROJECTIONS
    assert all(set(row) == {"name", "lag_events", "lag_seconds", "faults"} for row in rows)
    rebuilt = printed("projections", "rebuild", "intents", data_dir=outside.data_dir)
    assert rebuilt["name"] == "intents"
    assert rebuilt["position"] > 0
    assert (await tenant.get(f"/intents/{created.json()['id']}")).json() == created.json()
    assert printed("projections", "faults", data_dir=outside.data_dir) == []
    assert printed("projections", "retry", "intents", data_dir=outside.data_dir) == {"applied": 0, "left": 0}
    unknown = command("projections", "rebuild", "dreams", data_dir=outside.data_dir)
    assert unknown.returncode == 1
    assert "intent_search" in unknown.stderr, "it says which there are"


@pytest.mark.slow
def test_projections_work_while_the_platform_is_down(down: Path):
    assert {row["name"] for row in printed("projections", "list", data_dir=down)} == PROJECTIONS
    assert printed("projections", "rebuild", "tenants", data_dir=down)["position"] > 0
    assert {row["lag_events"] for row in printed("projections", "list", data_dir=down) if row["name"] == "tenants"} == {0}
    assert printed("projections", "faults", "tenants", data_dir=down) == []
    assert printed("projections", "retry", "tenants", data_dir=down) == {"applied": 0, "left": 0}
    assert printed("migrate", data_dir=down) == {"applied": []}


def test_the_doctor_finds_nothing_wrong_with_a_platform_that_is_up(outside: Outside):
    findings = printed("doctor", data_dir=outside.data_dir, port=str(outside.served.port))
    assert [found for found in findings if not found["ok"]] == []
    assert {"Python", "settings", "data directory", "tokens", "address", "database", "server", "wake-ups", "roles", "log"} <= {
        found["check"] for found in findings
    }
    assert {f"projection {name}" for name in PROJECTIONS} <= {found["check"] for found in findings}


def wrong(done: Any) -> dict[str, str]:
    """What the doctor found wrong, with its way out."""
    assert done.returncode == 1, done.stdout
    found = {one["check"]: one for one in json.loads(done.stdout) if not one["ok"]}
    for one in found.values():
        assert one["detail"]
        assert one["mend"]
    return {check: one["detail"] for check, one in found.items()}


def test_the_doctor_names_what_is_wrong_and_the_way_out(tmp_path: Path, outside: Outside):
    assert wrong(command("doctor", "--json", data_dir=tmp_path, prot="1")) == {
        "settings": "QUANTUM_PROT is not a setting: did you mean QUANTUM_PORT?"
    }
    away = {"database_url": "postgresql://quantum_app@127.0.0.1:9/q", "database_platform_url": "postgresql://p@127.0.0.1:9/q"}
    signing = {"auth_issuer": "https://login.example", "auth_jwks_url": "http://127.0.0.1:9/keys"}
    found = wrong(command("doctor", "--json", data_dir=tmp_path, port="0", **away, **signing))
    assert set(found) == {"database", "tokens"}
    assert "does not let us in" in found["database"]
    (tmp_path / "keys").mkdir(exist_ok=True)
    (tmp_path / "keys" / "issuer.jwk").write_text("{}")
    found = wrong(command("doctor", "--json", data_dir=tmp_path, port="0", **away))
    assert "issuer.jwk" in found["tokens"]
    in_words = command("doctor", data_dir=tmp_path, **away)
    assert in_words.returncode == 1
    assert "wrong" in in_words.stdout
    assert "→" in in_words.stdout


@pytest.mark.slow
def test_the_demo_tells_its_story_and_ends_with_status_0():
    done = command("demo", database_url="postgresql://nobody@127.0.0.1:9/none")
    assert done.returncode == 0, done.stdout + done.stderr
    for claim in ("the execution is completed", "replay gives the same state", "for them it does not exist (404)"):
        assert f"✔ {claim}" in done.stdout
    assert done.stderr == ""
