# intent_ref: ground.compose
"""What runs in containers agrees with what the platform can be told."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from quantum.settings import PREFIX, ROLES, Settings, load_settings, variable

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PLATFORM = {name: service for name, service in SERVICES.items() if service.get("build") == "."}
SETTINGS = {variable(name) for name in Settings.model_fields}


def roles_served() -> list[str]:
    return [command[command.index("--role") + 1] for command in (service["command"] for service in PLATFORM.values())
            if "--role" in command]  # fmt: skip


def test_every_role_of_the_platform_has_one_service():
    assert sorted(roles_served()) == sorted(set(ROLES) - {"all"})


def test_a_job_migrates_before_any_role_starts():
    assert PLATFORM["migrate"]["command"] == ["migrate"]
    for name in set(PLATFORM) - {"migrate"}:
        assert PLATFORM[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_services_variables_are_settings_and_fit_together(name: str, monkeypatch: pytest.MonkeyPatch):
    environment = {key: str(value) for key, value in PLATFORM[name]["environment"].items()}
    assert {key for key in environment if key.startswith(PREFIX)} <= SETTINGS
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    settings = load_settings()
    assert not settings.embedded_database
    assert settings.stream == "embedded"


def test_the_images_variables_are_settings():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+", dockerfile))
    assert named
    assert named <= SETTINGS


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned_by_a_version(name: str):
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert re.fullmatch(r"\d+(\.\d+)+", tag), f"{name} should pin its image by a version, not {tag!r}"


def test_the_platforms_image_carries_this_releases_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert {service["image"] for service in PLATFORM.values()} == {f"quantum:{version}"}


def test_the_image_installs_by_hash_and_runs_as_an_ordinary_user():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert any("--require-hashes" in line for line in lines)
    users = [shlex.split(line)[1] for line in lines if line.startswith("USER ")]
    assert users == ["quantum"]
    assert lines.index("USER quantum") < next(at for at, line in enumerate(lines) if line.startswith("ENTRYPOINT"))


def test_what_a_service_leans_on_exists():
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], f"{name}: {source}"


def test_addresses_name_services():
    for name, service in PLATFORM.items():
        for key, value in service["environment"].items():
            if "://" in str(value):
                assert urlsplit(str(value)).hostname in SERVICES, f"{name}: {key}"


def test_ports_are_open_to_this_machine_alone():
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_the_only_passwords_say_that_they_are_for_development():
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "deploy/postgres/logins.sql").read_text()
    passwords = re.findall(r"://\w+:([^@\s]+)@", text) + re.findall(r"PASSWORD:? '?([\w-]+)'?", text)
    assert set(passwords) == {"development-only"}
    assert not re.search(r"SharedAccessKey|AccountKey", text)


def test_the_collector_scrapes_every_role():
    collector = yaml.safe_load((ROOT / "deploy/otel-collector/config.yaml").read_text(encoding="utf-8"))
    (job,) = collector["receivers"]["prometheus"]["config"]["scrape_configs"]
    assert {target.split(":")[0] for target in job["static_configs"][0]["targets"]} == set(PLATFORM) - {"migrate"}


def test_the_emulators_event_hub_is_described():
    config = json.loads((ROOT / "deploy/event-hubs/config.json").read_text(encoding="utf-8"))
    (namespace,) = config["UserConfig"]["NamespaceConfig"]
    assert [entity["Name"] for entity in namespace["Entities"]] == ["events"]
