# intent_ref: tests.tokens-and-ids
"""Resume tokens are opaque and safe anywhere; ids sort by time, and derived ids repeat with their cause."""

import re
import string
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_store import ids
from event_store.ids import derived_id, uuid7
from event_store.tokens import InvalidToken, decode_token, encode_token

POSITIONS = st.integers(0, 2**48 - 1)


@given(POSITIONS)
def test_a_token_gives_its_position_back(position: int) -> None:
    assert decode_token(encode_token(position)) == position


@given(POSITIONS)
def test_a_token_is_safe_in_a_header_a_url_and_an_sse_id(position: int) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{6,40}", encode_token(position))


@given(POSITIONS, POSITIONS)
def test_two_positions_never_share_a_token(one: int, other: int) -> None:
    assert (encode_token(one) == encode_token(other)) == (one == other)


@pytest.mark.parametrize(
    "token",
    ["", "0", "17", "not a token", encode_token(5)[:-1] + "!", encode_token(5) + " ", "q1.5", "ＱＴＥ" * 3,
     "cTEu", "cTEuLTE", "cTEuMS41", "cTIuMTc", encode_token(2**48), "A" * 41,
     pytest.param("A" * 1_000_000, id="a megabyte"), "\x00" * 8, "cTEu2aE"],
)  # fmt: skip
def test_what_is_no_token_is_refused_with_the_way_out(token: str) -> None:
    with pytest.raises(InvalidToken, match="exactly as it was given") as refused:
        decode_token(token)
    assert refused.value.token == token


@given(st.text() | st.text(alphabet=string.ascii_letters + string.digits + "-_", min_size=6, max_size=40))
def test_any_text_is_a_position_or_refused(text: str) -> None:
    try:
        assert 0 <= decode_token(text) < 2**48
    except InvalidToken as refused:
        assert refused.token == text


def test_ids_are_uuids_of_version_7_with_the_time_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "time_ns", lambda: 0x0193_6B0E_5C00 * 1_000_000 + 999_999)
    made = uuid7()
    assert (made.version, made.variant) == (7, UUID("01936b0e-5c00-7000-8000-000000000000").variant)
    assert made.hex.startswith("01936b0e5c00")


def test_ids_of_later_milliseconds_sort_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_700_000_000_000_000_000, 1_700_000_001_000_000_000, 1_000_000))
    monkeypatch.setattr(ids, "time_ns", lambda: next(clock))
    made = [uuid7() for _ in range(1000)]
    assert made == sorted(made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_ids_of_one_millisecond_do_not_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "time_ns", lambda: 1_700_000_000_000_000_000)
    assert len({uuid7() for _ in range(10_000)}) == 10_000


@given(st.uuids(), st.text(max_size=50), st.uuids(), st.text(max_size=50))
def test_derived_ids_repeat_with_their_cause_and_with_nothing_else(parent: UUID, name: str, other: UUID, label: str) -> None:
    assert derived_id(parent, name) == derived_id(parent, name) == uuid5(parent, name)
    assert (derived_id(parent, name) == derived_id(other, label)) == ((parent, name) == (other, label))
