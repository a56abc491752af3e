# intent_ref: tests.quick-calls
"""What is known of how long actions take: by experience, by tenant, within bounds."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from sagas.dispatches import Dispatch
from sagas.quickness import QUICK_SECONDS, Quickness


def dispatch(tenant: str = "quick", action: str = "probe") -> Dispatch:
    """A call of this action."""
    return Dispatch(tenant, "e", "s", 1, datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), UUID(int=2), "c", None, action=action)


def test_an_action_is_quick_only_by_experience_and_only_in_its_tenant() -> None:
    known = Quickness()
    assert not known.is_quick(dispatch())
    known.took(dispatch(), QUICK_SECONDS / 2)
    assert known.is_quick(dispatch())
    assert not known.is_quick(dispatch(action="other"))
    assert not known.is_quick(dispatch(tenant="other"))
    known.took(dispatch(action=""), 0.0)
    assert not known.is_quick(dispatch(action=""))


def test_an_action_that_becomes_slow_is_quick_no_more_and_may_become_quick_again() -> None:
    known = Quickness()
    known.took(dispatch(), 0.0)
    known.took(dispatch(), 1.0)
    assert not known.is_quick(dispatch())
    for _ in range(30):
        known.took(dispatch(), 0.0)
    assert known.is_quick(dispatch())


def test_what_is_known_of_actions_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagas.quickness._ACTIONS_MAX", 10)
    known = Quickness()
    for number in range(100):
        known.took(dispatch(action=f"a{number}"), 0.0)
    assert len(known._seconds) <= 10
    assert known.is_quick(dispatch(action="a99"))
