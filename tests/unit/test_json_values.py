# intent_ref: domain.json-values
"""What a look from afar finds sound, the walk from value to value finds sound; and most values need no more than that look."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.json_values import INTEGER_MAX, KEY_CHARS_MAX, Limits, ValueCheck
from quantum.demo import INTENT

TIGHT = Limits(depth_max=3, value_bytes_max=60, definition_bytes_max=6_000, values_max=12)
AWS_KEY = "AKIAIOSFODNN7EXAMPLE"
TEXTS = st.sampled_from(
    ["", "build", "myapp:latest", AWS_KEY, "secret://db", "postgres://a:hunter2hunter2@db/x", "nul\0", "\ud800", "ä", "x" * 61,
     "password = hunter2hunter2", "a=b", "5m", "=" * 12]
)  # fmt: skip
KEYS = st.sampled_from(["action", "image", "password", "api_key", "k" * (KEY_CHARS_MAX + 1), "nul\0", "\ud800", AWS_KEY, 7])
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.sampled_from([0, -1, INTEGER_MAX, INTEGER_MAX + 1, -(2**63) - 1]),
    st.sampled_from([0.5, float("nan"), float("inf")]), st.sampled_from([(1, 2), b"bytes", {1}]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=14
)


def looks(limits: Limits, value: Any, *, look_for_secrets: bool = True) -> bool:
    """Whether the look from afar finds nothing."""
    return ValueCheck(limits, look_for_secrets=look_for_secrets)._is_plainly_sound(value)


@given(VALUES, st.booleans())
def test_what_looks_sound_is_sound(value: Any, look_for_secrets: bool):
    check = ValueCheck(TIGHT, look_for_secrets=look_for_secrets)
    if check._is_plainly_sound(value):
        assert check._walk(value, "/x")
        assert not check.shape.listed + check.security.listed


@pytest.mark.parametrize(
    "value",
    [INTENT["definition"], {}, [], "text", None, 1.5, {"steps": [{"action": "wait", "for": "5m", "n": [1, 2.5, True, None]}]}],
)
def test_most_values_need_no_walk(value: Any):
    assert looks(Limits(), value)


@pytest.mark.parametrize("value", ["ä", {"password": "secret://db"}, "https://example.org/", [[[[]]]], [[[{}]]], list(range(13))])
def test_what_the_look_leaves_open_may_still_be_sound_or_not(value: Any):
    assert not looks(Limits(depth_max=3, values_max=12), value)


def test_as_deep_and_as_many_as_may_be():
    assert looks(Limits(depth_max=3, values_max=12), [[["a", "b"]]])
    assert looks(TIGHT, list(range(12)))
