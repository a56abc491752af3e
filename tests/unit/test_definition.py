# intent_ref: domain.definition
"""What a definition may say: every fault of its three stages, each where it is."""

import json
from typing import Any

import pytest

from domain.definition import Limits, Rules, Step, parse_definition
from domain.module import RetryPolicy
from domain.refusals import DefinitionInvalid, Fault
from domain.security import names_a_secret, secret_in
from tests.unit.samples import CATALOGUE, RULES, SMALL, deployment, modules_of, steps


def faults(raw: Any, rules: Rules = RULES) -> tuple[Fault, ...]:
    with pytest.raises(DefinitionInvalid) as caught:
        parse_definition(raw, CATALOGUE, rules)
    return caught.value.faults


def found(raw: Any, rules: Rules = RULES) -> list[tuple[str, str]]:
    return [(fault.pointer.removeprefix("/definition"), fault.code) for fault in faults(raw, rules)]


def parsed(raw: Any, rules: Rules = RULES) -> tuple[Step, ...]:
    return parse_definition(raw, CATALOGUE, rules).steps


def in_step(**fields: Any) -> dict[str, Any]:
    return steps({"action": "a", **fields})


# --- what is right


def test_the_tutorials_definition_is_read_step_by_step() -> None:
    definition = parse_definition(deployment(), CATALOGUE, RULES)
    assert definition.target == "production"
    assert definition.steps == (
        Step("build-docker-image", "build-docker-image", (), {"image": "myapp:latest", "context": "./app"}, is_sequel=True),
        Step(
            "push-to-registry",
            "push-to-registry",
            ("build-docker-image",),
            {"registry": "azurecr.io", "image": "myapp:latest"},
            is_sequel=True,
        ),
        Step(
            "deploy-to-kubernetes",
            "deploy-to-kubernetes",
            ("push-to-registry",),
            {"namespace": "production", "replicas": 3},
            is_sequel=True,
        ),
    )


def test_reading_a_definition_leaves_it_as_it_was() -> None:
    raw = deployment()
    parse_definition(raw, CATALOGUE, RULES)
    assert raw == deployment()


@pytest.mark.parametrize("raw", [{"target": "t"}, {"target": "t", "steps": []}, {"target": "t", "steps": None}])
def test_a_definition_may_have_no_steps(raw: Any) -> None:
    assert parsed(raw) == ()


def test_names_for_later_releases_and_names_of_ones_own_are_accepted() -> None:
    assert parsed({"target": "t", "steps": [], "inputs": {}, "on": {}, "schedule": "@daily", "metadata": {}, "x-mine": 1}) == ()


def test_a_step_without_depends_on_waits_for_the_one_before() -> None:
    written = steps(
        {"action": "a"}, {"action": "b"}, {"action": "c", "depends_on": []}, {"action": "d", "depends_on": ["a", "c"]}
    )
    assert [step.depends_on for step in parsed(written)] == [(), ("a",), (), ("a", "c")]


def test_an_id_is_the_actions_name_with_a_number_where_it_is_repeated() -> None:
    written = steps({"action": "a"}, {"action": "a"}, {"action": "b"}, {"action": "a"})
    assert [step.id for step in parsed(written)] == ["a", "a-2", "b", "a-3"]


def test_a_default_id_never_meets_an_explicit_one() -> None:
    written = steps({"action": "a"}, {"action": "a"}, {"action": "b", "id": "a-2"}, {"action": "c", "id": "a"}, {"action": "b"})
    assert [step.id for step in parsed(written)] == ["a-3", "a-4", "a-2", "a", "b"]


def test_a_default_id_never_meets_another_default_one() -> None:
    catalogue = modules_of(one=("a", "a-2"))
    written = steps({"action": "a"}, {"action": "a"}, {"action": "a-2"}, {"action": "a-2"})
    definition = parse_definition(written, catalogue, RULES)
    assert [step.id for step in definition.steps] == ["a", "a-2", "a-2-2", "a-2-3"]


def test_a_step_can_wait_for_one_that_comes_later() -> None:
    written = steps({"action": "a", "depends_on": ["b"]}, {"action": "b", "depends_on": []})
    assert [step.depends_on for step in parsed(written)] == [("b",), ()]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (86_400, 86_400.0),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1.5 m", 90.0),
        ("250ms", 0.25),
        ("1d", 86_400.0),
    ],
)
def test_a_timeout_is_seconds_or_a_written_duration(written: Any, seconds: float) -> None:
    assert parsed(in_step(timeout=written))[0].timeout_seconds == seconds


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        (1, RetryPolicy(1)),
        (100, RetryPolicy(100)),
        ({}, RetryPolicy(3)),
        ({"max_attempts": 5}, RetryPolicy(5, 1.0, 2.0, 60.0)),
        ({"max_attempts": 2, "initial_interval": "2s", "backoff": 1, "max_interval": "1m"}, RetryPolicy(2, 2.0, 1.0, 60.0)),
        ({"max_attempts": 2, "backoff": 100}, RetryPolicy(2, 1.0, 100.0, 60.0)),
        ({"max_attempts": 2, "initial_interval": "5m"}, RetryPolicy(2, 300.0, 2.0, 300.0)),
    ],
)
def test_a_retry_is_a_number_of_attempts_or_a_policy(written: Any, policy: RetryPolicy) -> None:
    assert parsed(in_step(retry=written))[0].retry == policy


def test_null_says_nothing() -> None:
    assert parsed(in_step(id=None, depends_on=None, timeout=None, retry=None, when=None)) == (
        Step("a", "a", (), {}, is_sequel=True),
    )


def test_control_flow_is_kept_apart_from_parameters() -> None:
    step = parsed(in_step(when="true", foreach=[1], image="i", name=None, approval={"roles": ["ops"]}))[0]
    assert step.control is not None
    assert (step.control.when, step.control.items, step.control.gates[0].roles) == ("true", [1], ("ops",))
    assert step.parameters == {"image": "i", "name": None}


# --- stage one: shape


@pytest.mark.parametrize("raw", [None, [], "x", 1, True, 1.5])
def test_a_definition_is_an_object(raw: Any) -> None:
    assert found(raw) == [("", "type")]


@pytest.mark.parametrize(("target", "fault"), [
    (None, ("", "missing")), (1, ("/target", "type")), ("", ("/target", "type")), (" ", ("/target", "type")),
    ("x" * 201, ("/target", "type")), ({}, ("/target", "type")), (True, ("/target", "type")),
])  # fmt: skip
def test_a_target_is_a_string_of_some_length(target: Any, fault: tuple[str, str]) -> None:
    assert found({"target": target}) == [fault]
    assert parsed({"target": "x" * 200}) == ()


def test_a_missing_target_is_a_fault_of_the_definition() -> None:
    assert found({}) == [("", "missing")]


def test_an_unknown_key_is_named_with_the_one_that_may_be_meant() -> None:
    typo, strange = faults({"target": "t", "setps": [], "zzz": 1})
    assert (typo.pointer, typo.code) == ("/definition/setps", "unknown-key")
    assert "`steps`" in typo.detail
    assert "Did you mean" not in strange.detail


@pytest.mark.parametrize("written", [{}, "a", 1, True])
def test_steps_are_an_array(written: Any) -> None:
    assert found({"target": "t", "steps": written}) == [("/steps", "type")]


@pytest.mark.parametrize("step", [None, "a", 1, [], True])
def test_a_step_is_an_object(step: Any) -> None:
    assert found(steps(step)) == [("/steps/0", "type")]


def test_a_step_has_an_action() -> None:
    assert found(steps({})) == [("/steps/0", "missing")]
    assert found(steps({"action": None})) == [("/steps/0", "missing")]
    action: Any
    for action in (1, True, "", "a b", "x" * 101, "ä", [], "a\n"):
        assert found(steps({"action": action})) == [("/steps/0/action", "type")]


@pytest.mark.parametrize("step_id", [1, "", "a b", "x" * 101, "é", [], False, "a/b"])
def test_a_steps_id_has_a_form(step_id: Any) -> None:
    assert found(in_step(id=step_id)) == [("/steps/0/id", "type")]


def test_depends_on_is_an_array_of_strings() -> None:
    written: Any
    for written in ("b", {}, 1, False):
        assert found(in_step(depends_on=written)) == [("/steps/0/depends_on", "type")]
    assert found(in_step(depends_on=[1, None])) == [("/steps/0/depends_on/0", "type"), ("/steps/0/depends_on/1", "type")]


@pytest.mark.parametrize(
    "timeout", [0, -1, 86_401, True, False, "30", "s", "-1s", "0s", "25h", "2d", "1w", "٣s", [], 10**400, "9" * 400 + "s"]
)
def test_a_timeout_out_of_bounds_is_refused(timeout: Any) -> None:
    assert ("/steps/0/timeout", "invalid-duration") in found(in_step(timeout=timeout))


@pytest.mark.parametrize(("retry", "pointer", "code"), [
    (0, "", "invalid-number"), (101, "", "invalid-number"), (True, "", "invalid-number"), ("3", "", "invalid-number"),
    (2.0, "", "invalid-number"), ([], "", "invalid-number"),
    ({"max_attempts": 0}, "/max_attempts", "invalid-number"), ({"max_attempts": True}, "/max_attempts", "invalid-number"),
    ({"initial_interval": 0}, "/initial_interval", "invalid-duration"),
    ({"max_interval": "x"}, "/max_interval", "invalid-duration"),
    ({"backoff": 0.5}, "/backoff", "invalid-number"), ({"backoff": 101}, "/backoff", "invalid-number"),
    ({"backoff": True}, "/backoff", "invalid-number"), ({"backoff": "2"}, "/backoff", "invalid-number"),
    ({"initial_interval": 5, "max_interval": 4}, "/max_interval", "invalid-duration"),
    ({"attempts": 3}, "/attempts", "unknown-key"),
])  # fmt: skip
def test_a_retry_out_of_bounds_is_refused(retry: Any, pointer: str, code: str) -> None:
    assert found(in_step(retry=retry)) == [(f"/steps/0/retry{pointer}", code)]


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x\udfff", float("nan"), float("inf"), float("-inf"), 2**64, -(2**63) - 1])
def test_what_the_log_cannot_hold_is_refused_wherever_it_is(value: Any) -> None:
    assert found(in_step(image=value)) == [("/steps/0/image", "unstorable")]
    assert found(in_step(image={"tags": [1, value]})) == [("/steps/0/image/tags/1", "unstorable")]
    assert found({"target": "t", "metadata": value}) == [("/metadata", "unstorable")]


@pytest.mark.parametrize("value", ["Grüße 🚀", 2**64 - 1, -(2**63), 1e308, 0.1, "\n\t", "\x7f", None, False])
def test_what_the_log_can_hold_is_accepted(value: Any) -> None:
    assert parsed(in_step(image=value))[0].parameters == {"image": value}


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
def test_keys_are_held_to_the_same(key: str) -> None:
    assert found(in_step(image={key: 1})) == [("/steps/0/image", "unstorable")]
    assert found(in_step(image={"k" * 257: 1})) == [("/steps/0/image", "oversize")]
    assert found(in_step(image={5: 1})) == [("/steps/0/image", "type")]
    assert parsed(in_step(image={"k" * 256: 1}))


@pytest.mark.parametrize("value", [(1,), {1}, b"x", object()])
def test_what_is_not_json_is_refused(value: Any) -> None:
    assert found(in_step(image=value)) == [("/steps/0/image", "type")]


def nested(levels: int, opened: Any = None) -> Any:
    value = opened
    for number in range(levels):
        value = [value] if number % 2 else {"k": value}
    return value


def test_nesting_is_bounded_at_exactly_the_limit() -> None:
    # The definition, its steps and the step are three levels.
    assert parsed(in_step(image=nested(61)))
    pointer, code = found(in_step(image=nested(62)))[0]
    assert (code, pointer.count("/")) == ("too-deep", 2 + 62)


def test_a_depth_bomb_is_one_fault_and_no_recursion() -> None:
    assert [code for _, code in found(in_step(image=nested(200_000)))] == ["too-deep"]


def test_the_number_of_values_is_bounded() -> None:
    assert found({"target": "t", "metadata": [0] * 40}, SMALL) == [("", "too-many-values")]
    assert found({"metadata": [0] * 40, "zzz": 1, "steps": 5}, SMALL) == [("", "too-many-values")]
    assert parsed({"target": "t", "metadata": [0] * 38}, SMALL) == ()


def test_pointers_escape_as_rfc_6901_says() -> None:
    assert found(in_step(image={"a/b~c": {"": "x\0"}})) == [("/steps/0/image/a~1b~0c/", "unstorable")]


def test_the_prefix_of_pointers_can_be_chosen() -> None:
    with pytest.raises(DefinitionInvalid) as caught:
        parse_definition({}, CATALOGUE, RULES, prefix="/body")
    assert [fault.pointer for fault in caught.value.faults] == ["/body"]


# --- stage two: business rules


def test_an_unknown_action_is_named_with_the_one_that_may_be_meant() -> None:
    typo, strange = faults(steps({"action": "build-docker-imag"}, {"action": "xyzzy"}))
    assert (typo.pointer, typo.code) == ("/definition/steps/0/action", "unknown-action")
    assert "'build-docker-imag'" in typo.detail
    assert "Did you mean `build-docker-image`?" in typo.detail
    assert (strange.pointer, "Did you mean" in strange.detail) == ("/definition/steps/1/action", False)


def test_many_different_actions_are_looked_up_as_few_are() -> None:
    catalogue = modules_of(one=tuple(f"a{n}" for n in range(20)), two=("b",))
    known = steps(*[{"action": f"a{n}"} for n in range(20)], {"action": "b"})
    assert len(parse_definition(known, catalogue, RULES).steps) == 21
    known["steps"][7]["action"] = "c"
    with pytest.raises(DefinitionInvalid) as caught:
        parse_definition(known, catalogue, RULES)
    assert [fault.pointer for fault in caught.value.faults] == ["/definition/steps/7/action"]


def test_an_id_given_twice_is_a_fault_of_the_second() -> None:
    written = steps({"action": "a", "id": "x"}, {"action": "b"}, {"action": "c", "id": "x"}, {"action": "d", "id": "x"})
    assert found(written) == [("/steps/2/id", "duplicate-id"), ("/steps/3/id", "duplicate-id")]


def test_dependencies_name_other_steps_once() -> None:
    written = steps({"action": "a"}, {"action": "b", "depends_on": ["a", "aa", "b", "a"]})
    unknown, itself, twice = faults(written)
    assert (unknown.pointer, unknown.code) == ("/definition/steps/1/depends_on/1", "unknown-step")
    assert (itself.pointer, itself.code) == ("/definition/steps/1/depends_on/2", "cycle")
    assert (twice.pointer, twice.code) == ("/definition/steps/1/depends_on/3", "duplicate-dependency")


def test_a_cycle_is_reported_with_its_way_round() -> None:
    written = steps(
        {"action": "a", "depends_on": ["c"]},
        {"action": "b", "depends_on": ["a"]},
        {"action": "c", "depends_on": ["b"]},
        {"action": "d"},
    )
    (cycle,) = faults(written)
    assert (cycle.pointer, cycle.code) == ("/definition/steps/0/depends_on", "cycle")
    assert cycle.detail.endswith("a → c → b → a.")


def test_waiting_for_the_step_before_can_close_a_cycle() -> None:
    assert found(steps({"action": "a", "depends_on": ["b"]}, {"action": "b"})) == [("/steps/0/depends_on", "cycle")]


def test_every_separate_cycle_is_reported() -> None:
    written = steps(
        {"action": "a", "depends_on": ["b"]}, {"action": "b", "depends_on": ["a"]},
        {"action": "c", "depends_on": ["d"]}, {"action": "d", "depends_on": ["c"]}, {"action": "e", "depends_on": ["a", "c"]},
    )  # fmt: skip
    assert found(written) == [("/steps/0/depends_on", "cycle"), ("/steps/2/depends_on", "cycle")]


def test_a_diamond_is_no_cycle() -> None:
    written = steps(
        {"action": "d", "depends_on": ["b", "c"]}, {"action": "b", "depends_on": ["a"]},
        {"action": "c", "depends_on": ["a"]}, {"action": "a", "depends_on": []},
    )  # fmt: skip
    assert [step.depends_on for step in parsed(written)] == [("b", "c"), ("a",), ("a",), ()]


def test_a_cycle_behind_a_step_that_is_in_none_is_found() -> None:
    written = steps(
        {"action": "a", "depends_on": ["b", "c"]}, {"action": "b", "depends_on": []}, {"action": "c", "depends_on": ["d"]},
        {"action": "d", "depends_on": ["b", "a"]},
    )  # fmt: skip
    assert found(written) == [("/steps/0/depends_on", "cycle")]


def test_a_long_cycle_is_shortened_in_its_message() -> None:
    written = steps(*[{"action": "a", "id": f"s{n}", "depends_on": [f"s{(n + 1) % 400}"]} for n in range(400)])
    (cycle,) = faults(written)
    assert cycle.detail.endswith("s10 → s11 → … → s0.")


def test_a_step_that_cannot_be_read_is_not_missed_by_others() -> None:
    assert found(steps({"action": "a", "id": "no good"}, {"action": "b", "depends_on": ["first"]})) == [("/steps/0/id", "type")]
    assert found(steps("first", {"action": "b", "depends_on": ["first"]})) == [("/steps/0", "type")]
    assert found(steps({"action": "!"}, {"action": "b", "depends_on": ["first"]})) == [("/steps/0/action", "type")]
    assert found(steps({"id": "first"}, {"action": "b", "depends_on": ["first"]})) == [("/steps/0", "missing")]


def test_the_number_of_steps_is_bounded_and_the_first_ones_are_still_judged() -> None:
    assert len(parsed(steps(*[{"action": "a"}] * 3), SMALL)) == 3
    too_many = steps(*[{"action": "a"}, {"action": "zz"}, {"action": "a"}, {"action": "zz"}])
    assert found(too_many, SMALL) == [("/steps", "too-many-steps"), ("/steps/1/action", "unknown-action")]
    assert len(parsed(steps(*[{"action": "a"}] * 500))) == 500
    assert found(steps(*[{"action": "a"}] * 501)) == [("/steps", "too-many-steps")]


# --- stage three: security

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",
    "key: ASIAIOSFODNN7EXAMPLE, more",
    "-----BEGIN PRIVATE KEY-----\nMIIE",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----",
    JWT,
    f"Authorization: Bearer {JWT}",
    "ghp_" + "a1B2c3" * 6,
    "token ghs_" + "a1B2c3" * 6,
    "github_pat_" + "a1B2c3" * 6,
    "glpat-" + "a1B2c3" * 4,
    "xoxb-1234567890-abcdefghij",
    "https://hooks.slack.com/services/T00000000/B00000000/XXXX",
    "AIza" + "a1B2c3d" * 5,
    "sk_live_" + "a1B2c3" * 4,
    "sk-ant-" + "a1B2c3" * 6,
    "npm_" + "a1B2c3" * 6,
    "abc8Q~" + "a1B2c3" * 6,
    "https://store.blob.core.windows.net/c?sv=2024&sig=" + "a1B2" * 10 + "%3D",
    "Bearer 0123456789abcdef0123",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Zm9vYmFy;EndpointSuffix=core.windows.net",
    "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=Zm9vYmFy=",
    "Server=db;User Id=sa;Password=hunter2;",
    "host=db;uid=sa;Pwd = hunter2",
    "mysql --password=hunter2 -h db",
    "export API_KEY=abc123def",
    "https://user:hunter2@example.test/",
    "redis://:hunter2@cache:6379/0",
    "clone git+https://x:hunter2@git.test/r now",
]
HARMLESS = [
    "myapp:latest",
    "azurecr.io/team/myapp@sha256:" + "0123456789abcdef" * 4,
    "sha256:" + "0123456789abcdef" * 4,
    "0199c3f2-7d4e-7a21-b2ad-3f1f0a5b9c11",
    "2026-11-21T08:00:00Z",
    "https://example.test:8443/a@b?x=1#y",
    "https://registry.test:5000/x@sha256:abc",
    "git@github.com:owner/repository.git",
    "ssh://git@github.com/owner/repository",
    "secret://kv/database",
    "Bearer ${{ secrets.api_token }}",
    "https://user:${{ secrets.word }}@example.test/",
    "https://user:${PASSWORD}@example.test/",
    "mysql --password=$DB_PASSWORD",
    "select * from users where password = ?",
    "password=%s",
    "password=***",
    "PWD=/app make",
    "if password == x",
    "the bearer authentication-and-authorization",
    "-----BEGIN PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "eyJ is how tokens begin",
    "AKIA",
    "sk-learn-based-classifier-for-requests",
    "npm_config_registry_and_more_settings_here",
    "token_count",
    "4f9d0c2e1b7a8d6c5e3f2a1b0c9d8e7f6a5b4c3d",
    "dGhpcyBpcyBqdXN0IHRleHQgaW4gYmFzZTY0IGZvcm0=",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_recognised_by_its_looks_and_never_repeated(secret: str) -> None:
    raw = in_step(image=secret, list=[secret])
    assert found(raw) == [("/steps/0/image", "secret"), ("/steps/0/list/0", "secret")]
    for fault in faults(raw):
        assert secret not in fault.detail
        assert not any(part in fault.detail for part in ("hunter2", "EXAMPLE", "a1B2", "Zm9v"))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_secret_passes(text: str) -> None:
    assert secret_in(text) is None
    assert parsed(in_step(image=text))


@pytest.mark.parametrize("key", [
    "password", "Password", "db_password", "dbPassword", "DB_PASSWORD", "password1", "password_value", "passwd", "pwd",
    "passphrase",
    "secret", "client_secret", "clientSecret", "client-secret", "token", "access_token", "authToken", "API_TOKEN", "api_key",
    "apiKey",
    "apikey", "x-api-key", "private_key", "privateKey", "aws_secret_access_key", "accountKey", "connection_string",
    "ConnectionString", "connectionstring", "db.pass", "signing key",
])  # fmt: skip
def test_a_secret_is_recognised_by_its_key(key: str) -> None:
    assert names_a_secret(key)
    assert found(in_step(env={key: "hunter2"})) == [(f"/steps/0/env/{key}", "secret")]
    assert "hunter2" not in faults(in_step(env={key: "hunter2"}))[0].detail


@pytest.mark.parametrize("key", [
    "token_count", "max_tokens", "tokens", "secret_name", "secretName", "secret_ref", "secretRef", "password_policy",
    "passwordless",
    "password_file", "token_url", "tokenizer", "key", "public_key", "key_id", "access_key_id", "keyvault", "image", "digest",
    "author",
    "next_token", "pageToken", "continuation_token", "connection", "string", "pass", "compass", "bypass", "secretary", "123",
    "", "value",
])  # fmt: skip
def test_a_key_that_only_speaks_of_secrets_passes(key: str) -> None:
    assert not names_a_secret(key)
    assert parsed(in_step(env={key: "hunter2"}))


@pytest.mark.parametrize("value", [
    "secret://database", "secret://kv/database#field", "${{ secrets.database }}", "prefix-${{ secrets.x }}-suffix",
    "${DB_PASSWORD}",
    "{{ secrets.x }}", "$(cat /run/secrets/x)", "vault://kv/x", "@Microsoft.KeyVault(SecretUri=https://v.test/secrets/x)",
    "", " ",
    "string", "required", None, True, 12, [], ["name-of-a-secret"], {"name": "db", "field": "password-field"},
])  # fmt: skip
def test_a_reference_to_a_secret_is_not_one(value: Any) -> None:
    assert parsed(in_step(password=value))[0].parameters == {"password": value}


@pytest.mark.parametrize("value", ["secret:hunter2", "secret://", "${{ }}", "${}", "x${DB}y", "$ecret", "null "])
def test_what_is_no_reference_does_not_pass_for_one(value: str) -> None:
    assert found(in_step(password=value)) == [("/steps/0/password", "secret")]


def test_a_secret_beside_a_reference_is_still_one() -> None:
    assert found(in_step(url="https://a:hunter2@x.test/${{ inputs.path }}")) == [("/steps/0/url", "secret")]


def test_a_secret_is_found_everywhere_in_a_definition() -> None:
    key = "AKIAIOSFODNN7EXAMPLE"
    raw = {
        "target": key, "metadata": {"n": [key]}, "description": key,
        "steps": [{"action": key, "id": key, "depends_on": [key], "when": key, key: 1, "retry": {key: 1}}], key: 1,
    }  # fmt: skip
    everything = faults(raw)
    assert {fault.pointer for fault in everything if fault.code == "secret"} == {
        "/definition", "/definition/target", "/definition/metadata/n/0", "/definition/description", "/definition/steps/0",
        "/definition/steps/0/action", "/definition/steps/0/id", "/definition/steps/0/depends_on/0", "/definition/steps/0/when",
        "/definition/steps/0/retry",
    }  # fmt: skip
    assert key not in json.dumps([[fault.pointer, fault.detail] for fault in everything])


@pytest.mark.parametrize("target", ["prod-eu", "PROD-EU", " prod-eu ", "ｐrod-eu", "Production", "a7"])
def test_a_forbidden_target_is_refused_however_it_is_written(target: str) -> None:
    rules = Rules(forbidden_targets=("prod-*", "production", "A[0-9]"))
    assert found({"target": target}, rules) == [("/target", "forbidden-target")]


def test_other_targets_pass() -> None:
    rules = Rules(forbidden_targets=("prod-*", "production", "A[0-9]"))
    for target in ("prod", "staging", "non-production", "a", "aa"):
        assert parsed({"target": target}, rules) == ()


def test_oversize_values_are_refused_by_their_bytes() -> None:
    assert parsed(in_step(image="x" * 64), SMALL)
    assert found(in_step(image="x" * 65), SMALL) == [("/steps/0/image", "oversize")]
    assert found(in_step(image="é" * 33), SMALL) == [("/steps/0/image", "oversize")]
    assert parsed(in_step(image="é" * 32), SMALL)


def test_a_definition_as_a_whole_is_bounded() -> None:
    assert found(in_step(list=["x" * 60] * 7), SMALL) == [("", "oversize")]
    rules = Rules(Limits(definition_bytes_max=len("targettstepsactiona")))
    assert parsed({"target": "t", "steps": [{"action": "a"}]}, rules)
    assert found({"target": "tt", "steps": [{"action": "a"}]}, rules) == [("", "oversize")]


# --- all of it at once


def test_every_fault_of_every_stage_is_reported_at_once_in_the_order_of_the_stages() -> None:
    raw = {
        "target": "prod-eu",
        "stesp": 1,
        "steps": [
            {"action": "a", "timeout": -1, "password": "hunter2"},
            {"action": "nobody", "depends_on": ["nowhere"]},
            "step",
            {"action": "b", "note": "a\0b"},
        ],
    }
    assert found(raw, Rules(forbidden_targets=("prod-*",))) == [
        ("/steps/3/note", "unstorable"),
        ("/stesp", "unknown-key"),
        ("/steps/0/timeout", "invalid-duration"),
        ("/steps/2", "type"),
        ("/steps/1/action", "unknown-action"),
        ("/steps/0/password", "secret"),
        ("/target", "forbidden-target"),
    ]


def test_a_hundred_faults_are_listed_and_the_rest_counted() -> None:
    everything = faults(steps(*[{"action": "nobody"}] * 150))
    assert len(everything) == 101
    assert everything[99].pointer == "/definition/steps/99/action"
    assert everything[100] == Fault("/definition", "There are 50 more faults like these.", "more-faults")
    assert len(faults(steps(*[{"action": "nobody"}] * 100))) == 100


def test_many_faults_of_several_stages_are_counted_together() -> None:
    everything = faults(steps(*[{"action": "nobody", "timeout": 0, "password": "hunter2"}] * 70))
    assert [fault.code for fault in everything].count("invalid-duration") == 70
    assert everything[100].detail == "There are 110 more faults like these."


def test_long_values_are_shortened_in_messages() -> None:
    (fault,) = faults(steps({"action": "a", "depends_on": ["y" * 5_000]}))
    assert len(fault.detail) < 300


HOSTILE = [
    "eyJ" * 20_000, "-eyJ" * 15_000, ".eyJaaaaaaaaaaaa" * 4_000, "://" * 20_000, "://a:" * 12_000, "password=" * 7_000,
    "pwd =  " * 9_000, "bearer " * 9_000, "Bearer " + "a" * 60_000, "ghp_" * 15_000, "-----BEGIN " + "A " * 30_000,
    "Q~" * 30_000, "AKIA" * 16_000, "=" * 65_000, "${{" * 20_000, "${{ " + " " * 60_000, "${{ " + "a " * 30_000,
    "{{" * 30_000, "https://hooks.slack.com/services/T" * 1_500, "sk-" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_text_is_judged_in_linear_time(hostile: str) -> None:
    # Quadratic patterns would take minutes over these; the suite's own time limit is what fails.
    for _ in range(5):
        secret_in(hostile)
        found(in_step(password=hostile))
