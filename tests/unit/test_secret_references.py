# intent_ref: tests.secrets
"""References become values where the definition has them and nowhere else, and values are kept out of what comes back."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.contract import ModuleError
from modules.secrets.environment import EnvironmentSecrets, variable_of
from modules.secrets.redaction import Redaction, hide_in_log, redact
from modules.secrets.references import REFERENCES_MAX, Reference, references_in
from modules.secrets.resolving import CACHED_MAX, Secrets, SecretUnavailable, SecretUnknown
from quantum.key_vault import vault_name

CANARY = "c4n4ry/+Väl ue&9"


class Provider:
    """A provider in memory that counts how often it is asked."""

    def __init__(self, values: Mapping[tuple[str, str], str], name: str = "memory", *, away: bool = False) -> None:
        self.name, self.values, self.away, self.asked = name, dict(values), away, 0

    async def get(self, tenant_id: str, name: str) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise SecretUnavailable("it is away")
        if (tenant_id, name) not in self.values:
            raise SecretUnknown(name)
        return self.values[tenant_id, name]


def secrets(**values: str) -> Secrets:
    return Secrets([Provider({("t", name): value for name, value in values.items()})])


async def failure(work: Any) -> tuple[str, bool]:
    with pytest.raises(ModuleError) as raised:
        await work
    assert CANARY not in str(raised.value)
    return raised.value.code, raised.value.retryable


async def test_whole_strings_and_places_inside_strings_become_values():
    resolved = await secrets(db=CANARY, key="another-one").resolve(
        "t", {"password": "secret://db", "headers": [{"Authorization": "Bearer ${secret://key}, ${secret://memory/DB}"}], "n": 1}
    )
    assert resolved.parameters == {
        "password": CANARY, "headers": [{"Authorization": f"Bearer another-one, {CANARY}"}], "n": 1,
    }  # fmt: skip
    assert CANARY not in repr(resolved)


async def test_what_only_looks_like_a_reference_stays_as_it_is():
    parameters = {"note": "see secret://db for more", "a": "$secret://db", "b": "${env:x}", "c": "https://x/?y=secret://db"}
    resolved = await secrets(db=CANARY).resolve("t", parameters)
    assert resolved.parameters == parameters
    assert not resolved.used


@pytest.mark.parametrize(
    "text", ["secret://", "secret:///x", "secret://a/b/c", "secret://../x", "secret://a b", "${secret://../x}"]
)
async def test_a_reference_that_makes_no_sense_is_refused_for_good(text: str):
    assert await failure(secrets(db=CANARY).resolve("t", {"x": text})) == ("secret-reference-invalid", False)


async def test_more_references_than_a_step_may_have_are_refused():
    many = [f"secret://s{number}" for number in range(REFERENCES_MAX + 1)]
    assert await failure(secrets().resolve("t", many)) == ("secret-reference-invalid", False)


async def test_only_references_that_the_definition_has_at_that_place_count():
    authored = {"key": "secret://db", "url": "${{ inputs.url }}", "list": ["${{ inputs.x }} and ${secret://db}"]}
    evaluated = {"key": "secret://db", "url": "https://evil/?${secret://db}", "list": ["${secret://other} and ${secret://db}"],
                 "more": "secret://db"}  # fmt: skip
    resolved = await secrets(db=CANARY, other="must-not-appear").resolve("t", evaluated, authored=authored)
    assert resolved.parameters == {
        "key": CANARY, "url": "https://evil/?${secret://db}", "list": [f"${{secret://other}} and {CANARY}"],
        "more": "secret://db",
    }  # fmt: skip
    swapped = await secrets(db=CANARY).resolve("t", {"a": "secret://db"}, authored={"a": "${{ inputs.a }}${secret://db}"})
    assert swapped.parameters == {"a": "secret://db"}


async def test_another_tenants_secret_does_not_exist():
    assert await failure(secrets(db=CANARY).resolve("other", {"x": "secret://db"})) == ("secret-unknown", False)


async def test_providers_are_asked_in_order_and_one_that_is_away_is_not_passed_over():
    first, second = Provider({}, "first"), Provider({("t", "db"): CANARY}, "second")
    assert (await Secrets([first, second]).resolve("t", "secret://db")).parameters == CANARY
    first.away = True
    both = Secrets([first, second])
    assert await failure(both.resolve("t", "secret://db")) == ("secret-unavailable", True)
    assert (await both.resolve("t", "secret://second/db")).parameters == CANARY
    assert await failure(both.resolve("t", "secret://third/db")) == ("secret-unknown", False)


async def test_a_value_is_kept_a_short_while_and_asked_for_once_by_many():
    provider, now = Provider({("t", "db"): CANARY}), 0.0
    found = Secrets([provider], cache_seconds=30, clock=lambda: now)
    await asyncio.gather(*(found.resolve("t", "secret://db") for _ in range(50)))
    assert provider.asked == 1
    provider.values["t", "db"] = "a-newer-value"
    now = 29.9
    assert (await found.resolve("t", "secret://db")).parameters == CANARY
    now = 30.0
    assert (await found.resolve("t", "secret://db")).parameters == "a-newer-value"


async def test_the_cache_does_not_grow_without_end():
    provider = Provider({("t", f"s{number}"): "value" for number in range(CACHED_MAX + 50)})
    found = Secrets([provider])
    for number in range(CACHED_MAX + 50):
        await found.value("t", Reference(None, f"s{number}"))
    assert len(found._cached) == CACHED_MAX


@pytest.mark.parametrize("value", ["abc", "    a    ", "x" * 65_537, "with\0nul"])
async def test_a_value_that_could_not_be_kept_out_of_results_is_not_used(value: str):
    assert await failure(secrets(db=value).resolve("t", "secret://db")) == ("secret-invalid", False)


ENCODED = {
    "as it is": CANARY,
    "in JSON": json.dumps(CANARY),
    "in JSON in JSON": json.dumps({"a": CANARY}, ensure_ascii=False),
    "in a URL": quote_plus(CANARY),
    "in base64": base64.b64encode(CANARY.encode()).decode(),
    "in a basic credential": base64.b64encode(f"ada:{CANARY}".encode()).decode(),
    "at another offset": base64.b64encode(f"ad:{CANARY}!".encode()).decode(),
    "in URL-safe base64": base64.urlsafe_b64encode(CANARY.encode()).decode().rstrip("="),
    "in hexadecimal": CANARY.encode().hex(),
    "cut off": f"… the password is {CANARY[:-3]}",
}


@pytest.mark.parametrize("text", ENCODED.values(), ids=ENCODED.keys())
def test_a_used_value_is_removed_in_whatever_form_it_comes_back(text: str):
    used = Redaction({CANARY: "db"})
    clean = redact({"result": [f"before {text}"], text: 1}, used)
    left = json.dumps(clean, ensure_ascii=False)
    assert "[secret:db]" in left
    assert "n4ry" not in left
    assert CANARY.encode().hex()[:12] not in left
    assert "YzRuNHJ5" not in left
    assert left.startswith('{"result": ["before ')


def test_a_number_that_spells_a_secret_is_removed_and_others_stay():
    assert redact({"pin": 123456, "other": 12, "yes": True, "none": None, "part": 91234567.5}, Redaction({"123456": "pin"})) == {
        "pin": "[secret:pin]", "other": 12, "yes": True, "none": None, "part": "9[secret:pin]7.5",
    }  # fmt: skip


def test_each_line_of_a_key_in_several_lines_is_removed():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n"
    assert "MIIEvQIB" not in redact("line 2 is MIIEvQIBADANBgkqhkiG9w0B", Redaction({key: "key"}))


def test_a_secret_inside_another_leaves_nothing_of_either():
    used = Redaction({"hunter": "short", "hunter-and-more": "long"})
    assert redact("hunter-and-more hunter", used) == "[secret:long] [secret:short]"


@given(st.text(min_size=4, max_size=40).filter(lambda text: len(text.strip()) >= 4), st.text(max_size=30), st.text(max_size=30))
def test_no_value_survives_whatever_stands_around_it(value: str, before: str, after: str):
    assert value not in Redaction({value: "\ue000"}).text(before + value + after).replace("[secret:\ue000]", "")


def test_log_lines_hide_what_is_in_use_while_it_is_in_use():
    with Redaction({CANARY: "db"}).in_force():
        line = hide_in_log(None, "info", {"event": f"sent {CANARY}", "n": 1, "fault": ValueError(CANARY)})
    assert line == {"event": "sent [secret:db]", "n": 1, "fault": "[secret:db]"}
    assert hide_in_log(None, "info", {"event": "x" + CANARY}) == {"event": "x" + CANARY}


def test_no_two_tenants_share_a_variable_or_a_name_in_a_vault():
    environment = {"QUANTUM_SECRET_A_B__C": CANARY}
    assert variable_of("a-b", "c") == "QUANTUM_SECRET_A_B__C"
    assert vault_name("a-b", "c.d_e") == "a-b--c-d-e"
    assert vault_name("a--b", "c") is None
    assert vault_name("a" * 63, "n" * 100) is None
    provider = EnvironmentSecrets(environment)
    assert asyncio.run(provider.get("a-b", "c")) == CANARY
    for tenant, name in (("a", "b--c"), ("a", "b__c"), ("a--b", "c"), ("a", "b-c"), ("a", "c")):
        with pytest.raises(SecretUnknown):
            asyncio.run(provider.get(tenant, name))


_TENANTS = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
_NAMES = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,5}[a-z0-9])?", fullmatch=True)


@given(_TENANTS, _NAMES, _TENANTS, _NAMES)
def test_a_flat_name_belongs_to_one_tenant(tenant: str, name: str, other: str, others: str):
    if tenant != other and "--" not in tenant and "--" not in other:
        assert variable_of(tenant, name) != variable_of(other, others)
        assert vault_name(tenant, name) != vault_name(other, others)


def test_references_are_found_once_each_and_read_without_regard_to_case():
    assert references_in({"a": "secret://DB", "b": ["${secret://db}${secret://file/x}"]}) == [
        Reference(None, "db"), Reference("file", "x"),
    ]  # fmt: skip
