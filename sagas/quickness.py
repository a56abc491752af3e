# intent_ref: sagas.execution
"""Which actions are over in no time, as far as experience goes."""

from sagas.dispatches import Dispatch

QUICK_SECONDS = 0.01
_ACTIONS_MAX = 10_000
_WEIGHT = 0.2


class Quickness:
    """How long the calls of each action take: an average that forgets."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = {}

    def is_quick(self, dispatch: Dispatch) -> bool:
        """True for an action known to take less than `QUICK_SECONDS`; what is not known is not quick."""
        return self._seconds.get((dispatch.tenant_id, dispatch.action), QUICK_SECONDS) < QUICK_SECONDS

    def took(self, dispatch: Dispatch, seconds: float) -> None:
        """A call took this long."""
        if not dispatch.action:
            return
        key = (dispatch.tenant_id, dispatch.action)
        if len(self._seconds) >= _ACTIONS_MAX:
            self._seconds.clear()
        before = self._seconds.get(key, seconds)
        self._seconds[key] = before + _WEIGHT * (seconds - before)
