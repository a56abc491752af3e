# intent_ref: domain.steps
"""What a step says beyond its action: conditions, gates, loops, children, what happens on failure. Read, not yet judged."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from domain.immutable import immutable
from domain.json_values import Faults, Place
from domain.module import RetryPolicy
from domain.security import quoted
from domain.step_policies import NAME_RULE, did_you_mean, is_name, read_retry, read_seconds
from domain.zoned_times import local_time_of, zone_named

WAIT_SECONDS_MAX = 366 * 86_400.0
ITEMS_AT_ONCE_DEFAULT = 10
ITEMS_MAX = 1_000
ALL_ITEMS_MAX = 10_000  # of all loops of an execution
ROLES_MAX = 20
EXPRESSION_CHARS_MAX = 4_096
CONCURRENCY_MAX = 10_000
CONTROL_KEYS = (
    "when", "join", "wait", "approval", "signal", "workflow", "foreach", "on_failure", "fallback", "compensate", "timeouts",
    "heartbeat", "concurrency",
)  # fmt: skip
_CONTROL_KEYS = frozenset(CONTROL_KEYS)

_WORKFLOW = re.compile(r"(?P<name>[^@]{1,200})(?:@(?P<version>[1-9][0-9]{0,8}))?")


@immutable
class ActionUse:
    """An action that stands in for, or undoes, the step's own. The place is for faults found later."""

    action: str
    parameters: dict[str, Any]
    timeout_seconds: float | None
    retry: RetryPolicy | None
    place: Place


@immutable
class GateUse:
    """A gate as it is written; durations and times may be templates."""

    kind: Literal["wait", "approval", "signal"]
    duration: Any = None
    until: Any = None
    on_due: Literal["complete", "fail", "skip"] = "complete"
    roles: tuple[str, ...] = ()
    signal: str | None = None
    message: Any = None
    zone: str | None = None


@immutable
class WorkflowUse:
    """Another intent by name, of a version or the current one."""

    name: str
    version: int | None
    inputs: dict[str, Any]


@dataclass(slots=True)
class ControlDraft:
    """Control flow as a step writes it; None where it says nothing."""

    when: str | None = None
    join: int | Literal["all", "any"] | None = None
    gates: tuple[GateUse, ...] = ()
    workflow: WorkflowUse | None = None
    items: Any = None
    items_at_once: int = ITEMS_AT_ONCE_DEFAULT
    is_loop: bool = False
    goes_on_after_failure: bool = False
    fallback: ActionUse | None = None
    compensate: ActionUse | None = None
    is_never_undone: bool = False
    attempt_seconds: float | None = None
    queue_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    concurrency_key: Any = None
    concurrency_max: int | None = None


def is_template(value: Any) -> bool:
    """True for a string with an expression in it."""
    return isinstance(value, str) and "${{" in value


def time_of(value: Any) -> datetime | None:
    """A time as ISO 8601 writes it, with its offset; None for anything else."""
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is not None:
            at.astimezone(UTC)  # the last hours of the year 9999 are no time in every zone
            return at
    except (TypeError, ValueError, OverflowError):
        pass
    return None


def read_control(raw: dict[str, Any], place: Place, faults: Faults) -> ControlDraft | None:
    """What a step's `CONTROL_KEYS` say; None where it has none of them. What is not right is noted and read as not said."""
    if _CONTROL_KEYS.isdisjoint(raw):
        return None
    said = {key: raw[key] for key in CONTROL_KEYS if raw.get(key) is not None}
    if not said:
        return None
    draft = ControlDraft()
    for key, value in said.items():
        _READ[key](draft, value, (place, key), faults)
    order = {"wait": 0, "approval": 1, "signal": 2}
    draft.gates = tuple(sorted(draft.gates, key=lambda gate: order[gate.kind]))
    return draft


def _read_when(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, str) and len(value.strip()) > 0 and len(value) <= EXPRESSION_CHARS_MAX:
        draft.when = value
    else:
        faults.add(place, f"`when` must be an expression of 1 to {EXPRESSION_CHARS_MAX:,} characters.", "type")


def _read_join(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    if value in ("all", "any") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        draft.join = value
    else:
        faults.add(place, "`join` must be `all`, `any`, or how many dependencies suffice.", "invalid-join")


def _read_wait(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    said = _said(value, "for")
    _check_keys(said, ("for", "until", "zone"), place, faults)
    duration, until, zone = said.get("for"), said.get("until"), said.get("zone")
    if (duration is None) == (until is None):
        faults.add(place, "`wait` must say either `for` (a duration) or `until` (a time).", "missing")
        return
    if duration is not None and not is_template(duration):
        duration = read_seconds(duration, (place, "for"), faults, most=WAIT_SECONDS_MAX)
    if zone is not None:
        _check_zone(zone, until, place, faults)
    elif until is not None and not is_template(until) and time_of(until) is None:
        detail = "`until` must be a time such as `2026-12-24T18:00:00+01:00`, or a template; without an offset it needs a `zone`."
        faults.add((place, "until"), detail, "type")
    draft.gates += (GateUse("wait", duration, until, zone=zone),)


def _check_zone(zone: Any, until: Any, place: Place, faults: Faults) -> None:
    """A zone is for a time that has no offset of its own."""
    if until is None:
        faults.add((place, "zone"), "A duration is the same everywhere: `zone` goes with `until`.", "invalid")
    elif not isinstance(zone, str) or not (is_template(zone) or zone_named(zone)):
        detail = "`zone` must be a name of the IANA's, such as `Europe/Berlin`, or a template."
        faults.add((place, "zone"), detail, "invalid-timezone")
    if until is None or is_template(until) or local_time_of(until) is not None:
        return
    if time_of(until) is not None:
        faults.add((place, "until"), "This time has an offset of its own: leave out that, or `zone`.", "invalid")
    else:
        faults.add((place, "until"), "`until` must be a time such as `2026-12-24T18:00:00`, or a template.", "type")


def _read_approval(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    said = {} if value is True else _said(value)
    if not isinstance(said, dict):
        faults.add(place, "`approval` must be an object with `roles`, `expires_in` and `on_expiry`, or true.", "type")
        return
    _check_keys(said, ("roles", "expires_in", "on_expiry", "message"), place, faults)
    roles = said.get("roles", [])
    if not isinstance(roles, list) or len(roles) > ROLES_MAX or not all(map(is_name, roles)):
        faults.add((place, "roles"), f"`roles` must be an array of at most {ROLES_MAX} names of roles.", "type")
        roles = []
    duration, on_due = _read_expiry(said, {"approve": "complete", "fail": "fail", "skip": "skip"}, place, faults)
    draft.gates += (GateUse("approval", duration, None, on_due, tuple(roles), None, said.get("message")),)


def _read_signal(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    said = {"name": value} if isinstance(value, str) else _said(value)
    if not isinstance(said, dict) or not is_name(said.get("name")):
        faults.add(place, f"`signal` must be a name ({NAME_RULE}), or an object with `name`.", "type")
        return
    _check_keys(said, ("name", "expires_in", "on_expiry"), place, faults)
    duration, on_due = _read_expiry(said, {"complete": "complete", "fail": "fail", "skip": "skip"}, place, faults)
    draft.gates += (GateUse("signal", duration, None, on_due, (), said["name"]),)


def _read_expiry(said: dict[str, Any], words: dict[str, Any], place: Place, faults: Faults) -> tuple[Any, Any]:
    duration = said.get("expires_in")
    if duration is not None and not is_template(duration):
        duration = read_seconds(duration, (place, "expires_in"), faults, most=WAIT_SECONDS_MAX)
    word = said.get("on_expiry", "fail")
    if not isinstance(word, str) or word not in words:
        faults.add((place, "on_expiry"), f"`on_expiry` must be one of {', '.join(f'`{known}`' for known in words)}.", "invalid")
        word = "fail"
    return duration, words[word]


def _read_workflow(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    said = {"name": value} if isinstance(value, str) else _said(value)
    named = _WORKFLOW.fullmatch(said["name"]) if isinstance(said, dict) and isinstance(said.get("name"), str) else None
    if named is None:
        faults.add(place, "`workflow` must be the name of an intent, with or without a version: `name@3`.", "type")
        return
    _check_keys(said, ("name", "version", "inputs"), place, faults)
    version = said.get("version", int(named["version"]) if named["version"] else None)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        faults.add((place, "version"), "A version is an integer from 1.", "invalid-number")
        version = None
    inputs = said.get("inputs", {})
    if not isinstance(inputs, dict):
        faults.add((place, "inputs"), "`inputs` must be an object.", "type")
        inputs = {}
    draft.workflow = WorkflowUse(named["name"], version, inputs)


def _read_foreach(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    said = _said(value, "items")
    _check_keys(said, ("items", "concurrency"), place, faults)
    items, at_once = said.get("items"), said.get("concurrency", ITEMS_AT_ONCE_DEFAULT)
    if not (isinstance(items, list) or is_template(items)):
        faults.add(place, "`foreach` must be an array, a template that gives one, or an object with `items`.", "type")
        return
    if isinstance(items, list) and len(items) > ITEMS_MAX:
        faults.add(place, f"There are {len(items):,} items, of at most {ITEMS_MAX:,}.", "too-many-items")
    if isinstance(at_once, bool) or not isinstance(at_once, int) or not 1 <= at_once <= ITEMS_MAX:
        faults.add((place, "concurrency"), f"`concurrency` must be an integer from 1 to {ITEMS_MAX:,}.", "invalid-number")
        at_once = ITEMS_AT_ONCE_DEFAULT
    draft.items, draft.items_at_once, draft.is_loop = items, at_once, True


def _read_on_failure(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    if value == "continue":
        draft.goes_on_after_failure = True
    elif value != "fail":
        faults.add(place, "`on_failure` must be `fail` or `continue`.", "invalid")


def _read_fallback(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    draft.fallback = _read_action_use(value, place, faults)


def _read_compensate(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    if value is False:
        draft.is_never_undone = True
    else:
        draft.compensate = _read_action_use(value, place, faults)


def _read_action_use(value: Any, place: Place, faults: Faults) -> ActionUse | None:
    said = {"action": value} if isinstance(value, str) else value
    if not isinstance(said, dict) or not is_name(said.get("action")):
        faults.add(place, f"This must be the name of an action ({NAME_RULE}), or an object with `action`.", "type")
        return None
    timeout, retry = said.get("timeout"), said.get("retry")
    return ActionUse(
        said["action"], {key: kept for key, kept in said.items() if key not in ("action", "timeout", "retry")},
        None if timeout is None else read_seconds(timeout, (place, "timeout"), faults),
        None if retry is None else read_retry(retry, (place, "retry"), faults), place,
    )  # fmt: skip


def _read_timeouts(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    if not isinstance(value, dict):
        faults.add(place, "`timeouts` must be an object with `attempt`, `queue` and `total`.", "type")
        return
    _check_keys(value, ("attempt", "queue", "total"), place, faults)
    said = {
        key: read_seconds(given, (place, key), faults, most=WAIT_SECONDS_MAX if key != "attempt" else 86_400.0)
        for key, given in value.items() if given is not None
    }  # fmt: skip
    draft.attempt_seconds, draft.queue_seconds, draft.total_seconds = said.get("attempt"), said.get("queue"), said.get("total")


def _read_heartbeat(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    draft.heartbeat_seconds = read_seconds(value, place, faults)


def _read_concurrency(draft: ControlDraft, value: Any, place: Place, faults: Faults) -> None:
    said = _said(value, "key")
    _check_keys(said, ("key", "max"), place, faults)
    key, most = said.get("key"), said.get("max", 1)
    if not isinstance(key, str) or not 0 < len(key) <= EXPRESSION_CHARS_MAX:
        faults.add(place, "`concurrency` must be a key, or an object with `key` and `max`.", "type")
        return
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= CONCURRENCY_MAX:
        faults.add((place, "max"), f"`max` must be an integer from 1 to {CONCURRENCY_MAX:,}.", "invalid-number")
        return
    draft.concurrency_key, draft.concurrency_max = key, most


def _said(value: Any, otherwise: str | None = None) -> Any:
    """An object without what is null, for null says nothing; anything else is what `otherwise` names, where it does."""
    if isinstance(value, dict):
        return {key: given for key, given in value.items() if given is not None}
    return value if otherwise is None else {otherwise: value}


def _check_keys(said: dict[Any, Any], known: tuple[str, ...], place: Place, faults: Faults) -> None:
    for key in said:
        if key not in known:
            hint = did_you_mean(str(key), known, faults)
            faults.add((place, str(key)), f"There is no {quoted(str(key))} here.{hint}", "unknown-key")


_READ: dict[str, Callable[[ControlDraft, Any, Place, Faults], None]] = {
    "when": _read_when,
    "join": _read_join,
    "wait": _read_wait,
    "approval": _read_approval,
    "signal": _read_signal,
    "workflow": _read_workflow,
    "foreach": _read_foreach,
    "on_failure": _read_on_failure,
    "fallback": _read_fallback,
    "compensate": _read_compensate,
    "timeouts": _read_timeouts,
    "heartbeat": _read_heartbeat,
    "concurrency": _read_concurrency,
}
