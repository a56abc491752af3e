# intent_ref: commands.subscription
"""What may be asked of a tenant's subscriptions, what their patterns match, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from commands.subscription import (
    SUBSCRIPTIONS_MAX,
    ChangeSubscription,
    CreateSubscription,
    DeleteSubscription,
    DisableSubscription,
    EnableSubscription,
    PauseSubscription,
    ResumeSubscription,
    RotateSubscriptionSecret,
    decide,
)
from domain.refusals import Invalid, NotFound, SubscriptionIsDisabled, SubscriptionVersionStale, TooManySubscriptions
from domain.subscription import (
    Start,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionDisabled,
    SubscriptionEnabled,
    SubscriptionPaused,
    SubscriptionResumed,
    Subscriptions,
    SubscriptionSecretRotated,
    Terms,
    evolve,
)
from domain.subscription_rules import wants_subject, wants_type
from domain.values import SecretId, SubscriptionId
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, after

subscriptions: Decider[Subscriptions] = Decider(evolve, decide)
ID = SubscriptionId("s-1")
FIRST, SECOND, THIRD = SecretId("one"), SecretId("two"), SecretId("three")
KEPT, KEPT_LATER = SecretId("headers"), SecretId("later headers")
TERMS = Terms("https://hooks.example.com/x", ("quantum.execution.*",))
CREATED = SubscriptionCreated(ID, TERMS, Start(), FIRST, AT)
PAUSED, DISABLED = SubscriptionPaused(ID, AT), SubscriptionDisabled(ID, "gone", "410", AT)


def create(*, headers: dict[str, str] | None = None, **terms: Any) -> CreateSubscription:
    return CreateSubscription(
        subscription_id=ID, terms=replace(TERMS, **terms), start=Start(), secret_id=FIRST, headers=headers or {}, headers_id=KEPT,
        at=AT,
    )  # fmt: skip


def asked(command: type[Any], **more: Any) -> Any:
    return command(subscription_id=ID, at=AT, **more)


def test_a_subscription_is_made_changed_and_deleted() -> None:
    made = subscriptions.given().when(create()).then(CREATED)
    terms = replace(TERMS, max_in_flight=3)
    changed = made.when(asked(ChangeSubscription, max_in_flight=3)).then(SubscriptionChanged(ID, terms, AT))
    changed.when(asked(ChangeSubscription, max_in_flight=3)).then_nothing()
    gone = changed.when(asked(DeleteSubscription)).then(SubscriptionDeleted(ID, AT))
    gone.when(asked(DeleteSubscription)).then_refused(NotFound, kind="subscription")
    assert gone.state == Subscriptions({})


def test_a_change_keeps_what_it_does_not_name_and_can_take_back_what_it_names() -> None:
    created = replace(
        CREATED, terms=replace(TERMS, subjects=("execution/1",), description="x", headers=("X-A",), headers_id=KEPT)
    )
    change = asked(ChangeSubscription, subjects=(), description=None)
    terms = replace(TERMS, headers=("X-A",), headers_id=KEPT)
    subscriptions.given(created).when(change).then(SubscriptionChanged(ID, terms, AT))


def test_an_event_names_headers_and_never_says_what_is_in_them() -> None:
    headers = {"Authorization": "Bearer abc.def", "X-Team": "web"}
    named = replace(TERMS, headers=("Authorization", "X-Team"), headers_id=KEPT)
    made = subscriptions.given().when(create(headers=headers)).then(replace(CREATED, terms=named))
    assert "abc.def" not in repr(create(headers=headers))
    later = replace(TERMS, headers=("X-Team",), headers_id=KEPT_LATER)
    change = asked(ChangeSubscription, headers={"X-Team": "web"}, headers_id=KEPT_LATER)
    changed = made.when(change).then(SubscriptionChanged(ID, later, AT))
    changed.when(asked(ChangeSubscription, headers={}, headers_id=None)).then(SubscriptionChanged(ID, TERMS, AT))


def test_a_change_that_was_based_on_another_version_is_refused() -> None:
    given = subscriptions.given(CREATED, PAUSED)
    change = asked(ChangeSubscription, max_in_flight=3, expected=(1,))
    given.when(change).then_refused(SubscriptionVersionStale, actual=2)
    given.when(asked(ChangeSubscription, max_in_flight=3, expected=(1, 2))).then(
        SubscriptionChanged(ID, replace(TERMS, max_in_flight=3), AT)
    )
    given.when(asked(ChangeSubscription, max_in_flight=3, expected=())).then_refused(SubscriptionVersionStale, actual=2)


def test_pausing_and_resuming_say_so_once() -> None:
    given = subscriptions.given(CREATED)
    given.when(asked(ResumeSubscription)).then_nothing()
    paused = given.when(asked(PauseSubscription)).then(PAUSED)
    paused.when(asked(PauseSubscription)).then_nothing()
    paused.when(asked(EnableSubscription)).then_nothing()
    paused.when(asked(ResumeSubscription)).then(SubscriptionResumed(ID, AT))


def test_a_disabled_subscription_is_enabled_and_nothing_else() -> None:
    command = asked(DisableSubscription, reason="gone", detail="410")
    disabled = subscriptions.given(CREATED).when(command).then(DISABLED)
    disabled.when(command).then_nothing()
    disabled.when(asked(PauseSubscription)).then_refused(SubscriptionIsDisabled)
    disabled.when(asked(ResumeSubscription)).then_refused(SubscriptionIsDisabled)
    enabled = disabled.when(asked(EnableSubscription)).then(SubscriptionEnabled(ID, AT))
    assert enabled.state is not None
    assert (enabled.state.by_id[ID].status, enabled.state.by_id[ID].disabled_reason) == ("active", None)
    subscriptions.given(CREATED, PAUSED).when(command).then(DISABLED)


def test_a_rotation_keeps_one_former_secret_for_a_while() -> None:
    command = asked(RotateSubscriptionSecret, secret_id=SECOND, former_hours=1.0)
    rotated = subscriptions.given(CREATED).when(command).then(SubscriptionSecretRotated(ID, SECOND, FIRST, after(3600), AT))
    again = asked(RotateSubscriptionSecret, secret_id=THIRD, former_hours=1e9)
    longest = after(168 * 3600)
    state = rotated.when(again).then(SubscriptionSecretRotated(ID, THIRD, SECOND, longest, AT)).state
    assert state is not None
    assert (state.by_id[ID].secret_id, state.by_id[ID].former_secret_id) == (THIRD, SECOND)


def test_a_tenant_has_only_so_many_subscriptions() -> None:
    many = [replace(CREATED, subscription_id=SubscriptionId(f"s-{number}")) for number in range(2, SUBSCRIPTIONS_MAX + 2)]
    subscriptions.given(*many).when(create()).then_refused(TooManySubscriptions, limit=SUBSCRIPTIONS_MAX)
    subscriptions.given(*many[1:]).when(create()).then(CREATED)


@pytest.mark.parametrize(
    ("terms", "pointer", "code"),
    [
        ({"url": ""}, "/url", "invalid-url"),
        ({"url": "hooks.example.com"}, "/url", "invalid-url"),
        ({"url": "ftp://example.com"}, "/url", "invalid-url"),
        ({"url": "file:///etc/passwd"}, "/url", "invalid-url"),
        ({"url": "https://example.com:0/"}, "/url", "invalid-url"),
        ({"url": "https://example.com:99999/"}, "/url", "invalid-url"),
        ({"url": "https://[::1/"}, "/url", "invalid-url"),
        ({"url": "https:///x"}, "/url", "invalid-url"),
        ({"url": "https://exämple.com/"}, "/url", "invalid-url"),
        ({"url": "https://example.com/a b"}, "/url", "invalid-url"),
        ({"url": "https://example.com/\r\nHost: x"}, "/url", "invalid-url"),
        ({"url": "https://example.com\\@127.0.0.1/"}, "/url", "invalid-url"),
        ({"url": "https://example.com/#x"}, "/url", "invalid-url"),
        ({"url": "https://user:pass@example.com/"}, "/url", "secret"),
        ({"url": "https://user@example.com/"}, "/url", "secret"),
        ({"url": "https://example.com/" + "x" * 2_000}, "/url", "invalid-url"),
        ({"types": ()}, "/types", "invalid-patterns"),
        ({"types": ("*",) * 51}, "/types", "invalid-patterns"),
        ({"types": ("quantum.a", "intent.*")}, "/types/1", "invalid-pattern"),
        ({"types": ("quantum.*.*.*.*.*.*",)}, "/types/0", "invalid-pattern"),
        ({"types": ("quantum." + "x" * 200,)}, "/types/0", "invalid-pattern"),
        ({"subjects": ("",)}, "/subjects/0", "invalid-pattern"),
        ({"subjects": ("a\0b",)}, "/subjects/0", "invalid-pattern"),
        ({"subjects": ("\ud800",)}, "/subjects/0", "invalid-pattern"),
        ({"description": "x" * 2_001}, "/description", "oversize"),
        ({"max_in_flight": 0}, "/max_in_flight", "invalid"),
        ({"max_in_flight": 101}, "/max_in_flight", "invalid"),
        ({"headers": {f"X-{n}": "1" for n in range(21)}}, "/headers", "too-many-headers"),
        ({"headers": {"Host": "x"}}, "/headers/Host", "reserved-header"),
        ({"headers": {"webhook-signature": "x"}}, "/headers/webhook-signature", "reserved-header"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "/headers/Transfer-Encoding", "reserved-header"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "/headers/x-a", "invalid-header"),
        ({"headers": {"X A": "1"}}, "/headers/X A", "invalid-header"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "/headers/X-A", "invalid-header"),
        ({"headers": {"X-A": "größer"}}, "/headers/X-A", "invalid-header"),
        ({"headers": {"X-A": ""}}, "/headers/X-A", "invalid-header"),
        ({"headers": {"X-A": "x" * 1_001}}, "/headers/X-A", "invalid-header"),
        ({"headers": {"Proxy-Authorization": "Basic abc"}}, "/headers/Proxy-Authorization", "reserved-header"),
    ],
)
def test_hostile_terms_are_refused_with_their_place(terms: dict[str, Any], pointer: str, code: str) -> None:
    subscriptions.given().when(create(**terms)).then_faults(Invalid, (pointer, code))
    subscriptions.given(CREATED).when(asked(ChangeSubscription, **terms)).then_faults(Invalid, (pointer, code))


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("*", ["quantum.intent.created.v1"], []),
        ("quantum.execution.*", ["quantum.execution.started.v1"], ["quantum.executions.x.v1", "quantum.intent.created.v1"]),
        ("quantum.execution.started", ["quantum.execution.started.v1", "quantum.execution.started.v2"],
         ["quantum.execution.started_late.v1"]),
        ("quantum.execution.started.v1", ["quantum.execution.started.v1"], ["quantum.execution.started.v2"]),
        ("quantum.*.created", ["quantum.intent.created.v1"], ["quantum.intent.created_x.v1"]),
        ("quantum.(execution|intent).created", [], ["quantum.intent.created.v1"]),
    ],
)  # fmt: skip
def test_types_are_matched_with_or_without_their_version(pattern: str, matched: list[str], not_matched: list[str]) -> None:
    terms = replace(TERMS, types=(pattern,))
    assert all(wants_type(terms, one) for one in matched)
    assert not any(wants_type(terms, one) for one in not_matched)


def test_subjects_are_matched_from_end_to_end() -> None:
    assert wants_subject(TERMS, "anything")
    terms = replace(TERMS, subjects=("execution/*", "subscriptions"))
    assert [wants_subject(terms, one) for one in ("execution/1", "subscriptions", "subscriptions/1")] == [True, True, False]
