# intent_ref: tests.work
"""Lease tokens: what is handed out is read again, and nothing else is."""

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.values import ExecutionId, StepId
from domain.work import TOKEN_CHARS_MAX, Lease

NAMES = st.from_regex(r"~?[A-Za-z0-9._-]{1,100}(\[[0-9]{1,3}\])?", fullmatch=True)


@given(st.uuids(), st.uuids(), NAMES, st.integers(1, 9_999))
def test_a_lease_is_read_as_it_was_written_and_fits_into_a_path(token: UUID, execution: UUID, step: str, attempt: int):
    lease = Lease(ExecutionId(str(execution)), StepId(step), attempt, token)
    written = lease.written()
    assert Lease.read(written) == lease
    assert len(written) <= TOKEN_CHARS_MAX
    assert all(one.isalnum() or one in "-_" for one in written)


@given(st.one_of(st.text(), st.binary(max_size=200).map(lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="))))
def test_anything_else_is_none_or_the_one_way_to_write_a_lease(text: str):
    lease = Lease.read(text)
    assert lease is None or lease.written() == text


@pytest.mark.parametrize(
    "claims", ["0\na\nb\nc", "1\na", "-1\na\nb", "1_0\na\nb", "\u0661\na\nb", "1\na\0\nb", "01\na\nb", " 1\na\nb"]
)
def test_claims_that_no_lease_has_are_refused(claims: str):
    assert Lease.read(base64.urlsafe_b64encode(bytes(16) + claims.encode()).decode().rstrip("=")) is None
