# intent_ref: domain.steps
"""Durations, retry policies and names, as definitions and modules write them."""

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from domain.json_values import Faults, Place
from domain.module import RetryPolicy
from domain.security import quoted

TIMEOUT_SECONDS_MAX = 86_400.0
ATTEMPTS_MAX = 100
BACKOFF_MAX = 100.0
ATTEMPTS_DEFAULT = 3  # of a `retry` that says how to wait and not how often
ERROR_CODES_MAX = 50
PUT_OFF_MAX = 1_000
PUT_OFF_SECONDS_MAX = 86_400.0
"""How often in a row, and for how long, an attempt may be put off that was never really made (the module's breaker is open)."""
RETRY_KEYS = ("max_attempts", "initial_interval", "backoff", "max_interval", "jitter", "non_retryable")
NAME_RULE = "1 to 100 letters, digits, dots, underscores and hyphens"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SUGGESTIONS_MAX = 10
_CANDIDATES_MAX = 500


def is_name(value: Any) -> bool:
    """True for what can be the name of an action, a step or a signal: `NAME_RULE`."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def seconds_of(value: Any) -> float | None:
    """A duration as seconds: a number of them, or a string such as `30s`, `5m`, `2h`, `7d`; None for anything else."""
    if isinstance(value, str):
        written = _DURATION.fullmatch(value)
        return float(written[1]) * _UNIT_SECONDS[written[2]] if written else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return None


def read_seconds(value: Any, place: Place, faults: Faults, *, most: float = TIMEOUT_SECONDS_MAX) -> float | None:
    """A duration above 0 and up to `most` seconds; see `seconds_of`."""
    seconds = seconds_of(value)
    if seconds is not None and 0 < seconds <= most:
        return float(seconds)
    rule = f"a number of seconds above 0, up to {most:,.0f}, or a string such as `30s`, `5m` or `2h`"
    faults.add(place, f"This must be {rule}.", "invalid-duration")
    return None


def read_retry(value: Any, place: Place, faults: Faults) -> RetryPolicy | None:
    """A retry policy: the number of attempts, or an object with `RETRY_KEYS`."""
    if not isinstance(value, dict):
        attempts = _read_attempts(value, place, faults)
        return RetryPolicy(attempts_max=attempts) if attempts is not None else None
    faults_before = faults.count
    for key in value:
        if key not in RETRY_KEYS:
            faults.add(
                (place, key), f"`retry` has no {quoted(str(key))}.{did_you_mean(str(key), RETRY_KEYS, faults)}", "unknown-key"
            )
    said = {key: given for key, given in value.items() if given is not None}
    policy = RetryPolicy()
    attempts = _read_attempts(said.get("max_attempts", ATTEMPTS_DEFAULT), (place, "max_attempts"), faults)
    initial = read_seconds(said.get("initial_interval", policy.initial_seconds), (place, "initial_interval"), faults)
    backoff = said.get("backoff", policy.backoff)
    if isinstance(backoff, bool) or not isinstance(backoff, int | float) or not 1 <= backoff <= BACKOFF_MAX:
        faults.add((place, "backoff"), "`backoff` must be a number from 1 to 100.", "invalid-number")
    cap = read_seconds(said.get("max_interval", max(policy.cap_seconds, initial or 0)), (place, "max_interval"), faults)
    if initial is not None and cap is not None and cap < initial:
        faults.add((place, "max_interval"), "`max_interval` must not be below `initial_interval`.", "invalid-duration")
    jitter = said.get("jitter", policy.jitter)
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
        faults.add(
            (place, "jitter"), "`jitter` must be a number from 0 to 1: the part of a wait that chance decides.", "invalid-number"
        )
    codes = said.get("non_retryable", [])
    if not isinstance(codes, list) or len(codes) > ERROR_CODES_MAX or not all(map(is_name, codes)):
        detail = f"`non_retryable` must be an array of at most {ERROR_CODES_MAX} codes of errors."
        faults.add((place, "non_retryable"), detail, "type")
    if faults.count > faults_before or attempts is None or initial is None or cap is None:
        return None
    return RetryPolicy(attempts, initial, float(backoff), cap, float(jitter), tuple(codes))


def _read_attempts(value: Any, place: Place, faults: Faults) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= ATTEMPTS_MAX:
        return value
    faults.add(place, f"The number of attempts must be an integer from 1 to {ATTEMPTS_MAX}.", "invalid-number")
    return None


def did_you_mean(word: str, known: Iterable[str], faults: Faults) -> str:
    """` Did you mean …?` for near misses, else nothing; nothing, too, after the first faults, as comparing takes its time."""
    if faults.count >= _SUGGESTIONS_MAX:
        return ""
    near = difflib.get_close_matches(word[:100], list(islice(known, _CANDIDATES_MAX)), n=1, cutoff=0.7)
    return f" Did you mean `{near[0]}`?" if near else ""
