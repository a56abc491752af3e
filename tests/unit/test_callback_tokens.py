# intent_ref: tests.modules
"""Callback tokens and signatures: good for one attempt until a given time, and for whoever has the secret."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from domain.refusals import CallbackExpired, CallbackTokenInvalid
from modules.callbacks import Callbacks
from modules.contract import ModuleError
from modules.signing import signed

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


class Clock:
    now = AT

    def __call__(self) -> datetime:
        return self.now


def callbacks(*keys: bytes, clock: Clock | None = None) -> Callbacks:
    return Callbacks(keys or (KEY,), "https://quantum.example/", grace_seconds=60, clock=clock or Clock())


def token() -> str:
    return callbacks().issue("tenant-1", "e-1", "build[3]", 2, AT).token


def test_a_token_says_which_attempt_it_is_for():
    offer = callbacks().issue("tenant-1", "e-1", "~build[3]", 2, AT)
    assert offer.url == f"https://quantum.example/api/v1/callbacks/{offer.token}"
    claims = callbacks().verify(offer.token)
    assert (claims.tenant_id, claims.execution_id, claims.step, claims.attempt) == ("tenant-1", "e-1", "~build[3]", 2)
    assert claims.expires_at == AT + timedelta(seconds=60)


def test_it_is_good_until_its_deadline_and_a_while_after_and_then_gone():
    clock = Clock()
    made = callbacks(clock=clock).issue("tenant-1", "e-1", "build", 1, AT + timedelta(seconds=10))
    clock.now = AT + timedelta(seconds=70)
    assert callbacks(clock=clock).verify(made.token).step == "build"
    clock.now = AT + timedelta(seconds=71)
    with pytest.raises(CallbackExpired):
        callbacks(clock=clock).verify(made.token)


def test_another_key_refuses_it_and_an_older_key_still_counts():
    with pytest.raises(CallbackTokenInvalid):
        callbacks(OTHER).verify(token())
    assert callbacks(OTHER, KEY).verify(token()).attempt == 2


@pytest.mark.parametrize("place", range(len(token())))
def test_a_changed_character_anywhere_is_found(place: int):
    good = token()
    bad = good[:place] + ("x" if good[place] != "x" else "y") + good[place + 1 :]
    with pytest.raises(CallbackTokenInvalid):
        callbacks().verify(bad)


@given(st.text(max_size=300))
def test_whatever_is_no_token_is_refused_and_nothing_else_happens(text: str):
    with pytest.raises(CallbackTokenInvalid):
        callbacks().verify(text)


@given(st.text(min_size=1, max_size=100), st.integers(1, 10_000))
def test_any_name_of_a_step_survives_in_characters_that_a_path_takes(step: str, attempt: int):
    made = callbacks().issue("tenant-1", "e-1", step, attempt, AT)
    assert callbacks().verify(made.token).step == step
    assert all(one.isalnum() or one in "._-~!" for one in made.token)


def test_the_longest_names_there_are_fit_into_a_segment_of_a_path():
    made = callbacks().issue("t" * 63, "e" * 36, "~" + "s" * 100 + "[9999]", 100, AT)
    assert len(made.token) <= 255


def test_a_signature_is_what_standard_webhooks_verifies():
    headers = signed(SECRET, "key-1", datetime.now(UTC), '{"größe": 1}'.encode())
    assert Webhook(SECRET).verify('{"größe": 1}', headers) == {"größe": 1}


def test_the_verification_on_the_documentations_page_tells_right_from_wrong():
    page = (Path(__file__).parents[2] / "docs" / "modules.md").read_text(encoding="utf-8")
    example = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    verify, body = names["is_from_the_platform"], '{"größe": 1}'.encode()
    headers = signed(SECRET, "key-1", datetime.now(UTC), body)
    assert verify(SECRET, headers, body)
    assert not verify(SECRET, headers, body + b" ")
    assert not verify(SECRET, {**headers, "webhook-id": "key-2"}, body)
    assert not verify("whsec_" + base64.b64encode(b"n" * 32).decode(), headers, body)
    assert not verify(SECRET, signed(SECRET, "key-1", datetime.now(UTC) - timedelta(minutes=6), body), body)


def test_while_a_secret_changes_both_sign():
    other = "whsec_" + base64.b64encode(b"n" * 32).decode()
    headers = signed(f"{SECRET} {other}", "key-1", datetime.now(UTC), b"{}")
    assert Webhook(SECRET).verify("{}", headers) == Webhook(other).verify("{}", headers) == {}


@pytest.mark.parametrize("secret", ["", " ", "whsec_", "whsec_AAAA", "not base64!", "A" * 400, " ".join([SECRET] * 5)])
def test_what_is_no_secret_to_sign_with_is_refused_for_good(secret: str):
    with pytest.raises(ModuleError) as raised:
        signed(secret, "key-1", AT, b"{}")
    assert (raised.value.code, raised.value.retryable) == ("secret-invalid", False)
    assert len(secret) < 8 or secret not in str(raised.value)
