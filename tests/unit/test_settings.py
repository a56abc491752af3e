# intent_ref: ground.settings
"""A wrong setting stops the start with a sentence that names its environment variable."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from quantum.settings import PREFIX, ROLES, Settings, SettingsError, load_settings, variable

SetVariables = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> SetVariables:
    """Sets `QUANTUM_` variables, by name without the prefix, in an environment that has no others."""
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(PREFIX + name, value)

    return set_variables


def faults_of(**overrides: object) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load_settings(**overrides)
    return refused.value.faults


def test_nothing_needs_to_be_set(environment: SetVariables):
    settings = load_settings()
    assert settings.embedded_database
    assert settings.sandbox_on
    assert settings.role == "all"
    assert settings.data_dir.is_absolute()


def test_an_option_comes_before_the_environment_and_an_absent_one_does_not(environment: SetVariables):
    environment(PORT="9000", HOST="0.0.0.0")
    settings = load_settings(port=9100, host=None)
    assert (settings.port, settings.host) == (9100, "0.0.0.0")


def test_an_empty_variable_counts_as_unset(environment: SetVariables):
    environment(REDIS_URL="", PORT="")
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "99999", "QUANTUM_PORT should be less than or equal to 65535, not '99999'."),
        ("PORT", "http", "QUANTUM_PORT should be a valid integer, not 'http'."),
        ("SANDBOX", "maybe", "QUANTUM_SANDBOX should be a valid boolean, not 'maybe'."),
        ("STREAM", "rabbit", "QUANTUM_STREAM should be 'embedded', 'event-hubs' or 'kafka', not 'rabbit'."),
        ("REDIS_URL", "localhost:6379", "QUANTUM_REDIS_URL should be a URL that begins with redis:// or rediss:// or unix://."),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(environment: SetVariables, name: str, value: str, sentence: str):
    environment(**{name: value})
    assert faults_of() == [sentence]


def test_all_wrong_settings_are_reported_at_once(environment: SetVariables):
    environment(PORT="x", STEPS_MAX="0", ROLE="wroker", HOTS="h")
    assert sorted(fault.split(" ", 1)[0] for fault in faults_of()) == [
        "QUANTUM_HOTS", "QUANTUM_PORT", "QUANTUM_ROLE", "QUANTUM_STEPS_MAX",
    ]  # fmt: skip


def test_an_unknown_variable_is_refused_with_the_likely_one(environment: SetVariables):
    environment(DATABSE_URL="postgresql://h/d")
    assert faults_of() == ["QUANTUM_DATABSE_URL is not a setting: did you mean QUANTUM_DATABASE_URL?"]


def test_variables_of_the_tests_are_let_through(environment: SetVariables):
    environment(TEST_KAFKA_BOOTSTRAP="localhost:9092")
    load_settings()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"DATABASE_URL": "postgresql://a@h/d"}, "QUANTUM_DATABASE_PLATFORM_URL"),
        ({"DATABASE_DIRECT_URL": "postgresql://a@h/d"}, "QUANTUM_DATABASE_DIRECT_URL"),
        ({"STREAM": "kafka"}, "QUANTUM_KAFKA_BOOTSTRAP"),
        ({"STREAM": "event-hubs"}, "QUANTUM_EVENT_HUBS_CONNECTION"),
        ({"STREAM": "event-hubs", "EVENT_HUBS_CONNECTION": "Endpoint=sb://h/"}, "QUANTUM_EVENT_HUBS_NAME"),
        ({"STREAM": "event-hubs", "EVENT_HUBS_NAMESPACE": "h"}, "QUANTUM_EVENT_HUBS_NAME"),
        ({"EVENT_HUBS_CONNECTION": "a", "EVENT_HUBS_NAMESPACE": "h"}, "QUANTUM_EVENT_HUBS_NAMESPACE"),
        ({"EVENT_HUBS_CHECKPOINTS": "blob"}, "QUANTUM_EVENT_HUBS_BLOB_CONNECTION"),
        ({"AUTH_ISSUER": "https://login.example"}, "QUANTUM_AUTH_JWKS_URL"),
        ({"AUTH_JWKS_URL": "https://login.example/keys"}, "QUANTUM_AUTH_ISSUER"),
    ],
)
def test_a_setting_that_needs_another_says_which(environment: SetVariables, given: dict[str, str], named: str):
    environment(**given)
    (fault,) = faults_of()
    assert fault.startswith(named)


def test_passwords_appear_neither_in_the_settings_nor_in_a_refusal(environment: SetVariables):
    environment(
        DATABASE_URL="postgresql://quantum_app:sesame@h/d", DATABASE_PLATFORM_URL="postgresql://quantum_platform:sesame@h/d",
        REDIS_URL="redis://:sesame@h", EVENT_HUBS_CONNECTION="Endpoint=sb://h/;SharedAccessKey=sesame",
    )  # fmt: skip
    assert "sesame" not in repr(load_settings()) + str(load_settings())
    environment(DATABASE_URL="quantum_app:sesame@h/d")
    assert "sesame" not in "".join(faults_of())


def test_the_sandbox_is_off_with_a_database_of_ones_own_unless_it_is_switched_on(environment: SetVariables):
    environment(DATABASE_URL="postgresql://a@h/d", DATABASE_PLATFORM_URL="postgresql://b@h/d")
    assert not load_settings().sandbox_on
    assert load_settings(sandbox=True).sandbox_on


def test_targets_are_separated_by_commas(environment: SetVariables):
    environment(FORBIDDEN_TARGETS="legacy, mainframe ,")
    assert load_settings().forbidden_targets == ("legacy", "mainframe")


def test_every_role_can_be_set_and_is_listed():
    assert get_args(Settings.model_fields["role"].annotation) == ROLES


def test_the_readme_describes_every_setting():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        row = next((line for line in readme.splitlines() if line.startswith(f"| `{variable(name)}`")), "")
        assert field.description, f"{name} has no description"
        assert field.description in row, f"The README's row of {variable(name)} should say: {field.description}"
