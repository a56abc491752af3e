# intent_ref: domain.steps
"""The steps of a definition: how one is written, and how they hang together."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from domain.json_values import Faults, Place
from domain.module import Modules, RetryPolicy
from domain.security import quoted

TIMEOUT_SECONDS_MAX = 86_400.0
ATTEMPTS_MAX = 100
BACKOFF_MAX = 100.0
ATTEMPTS_DEFAULT = 3  # of a `retry` that says how to wait and not how often
RESERVED_KEYS = ("when", "compensate", "foreach", "workflow", "approval", "on_failure")
"""Keys of a step that mean something to later releases: kept, never parameters, and not executable yet."""
STEP_KEYS = frozenset({"action", "id", "depends_on", "timeout", "retry", *RESERVED_KEYS})
RETRY_KEYS = ("max_attempts", "initial_interval", "backoff", "max_interval")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_NAME_RULE = "1 to 100 letters, digits, dots, underscores and hyphens"
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SUGGESTIONS_MAX = 10
_CANDIDATES_MAX = 500
_CYCLE_NAMES_MAX = 12
_ACTIONS_LOOKED_UP_SINGLY_MAX = 8


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the definition says it, id and dependencies filled in; `reserved` holds what it says under `RESERVED_KEYS`."""

    id: str
    action: str
    depends_on: tuple[str, ...]
    parameters: dict[str, Any]
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    reserved: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class DraftStep:
    """A step whose shape has been read; None where it said nothing, or nothing right."""

    place: Place
    action: str | None = None
    id: str | None = None
    id_is_broken: bool = False
    depends_on: list[str | None] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    reserved: dict[str, Any] = field(default_factory=dict)


def read_step(raw: Any, place: Place, faults: Faults) -> DraftStep:
    """Stage one of a step: its shape. What is not right is noted and read as not said."""
    draft = DraftStep(place)
    if not isinstance(raw, dict):
        faults.add(place, "A step must be an object.", "type")
        draft.id_is_broken = True
        return draft
    action = raw.get("action")
    if isinstance(action, str) and _NAME.fullmatch(action):
        draft.action = action
    else:
        draft.id_is_broken = True
        if action is None:
            faults.add(place, "A step must have an `action`.", "missing")
        else:
            faults.add((place, "action"), f"An action must be a string of {_NAME_RULE}.", "type")
    for key, value in raw.items():
        if key not in STEP_KEYS:
            draft.parameters[key] = value
        elif value is not None:
            _read_key(draft, key, value, faults)
    return draft


def _read_key(draft: DraftStep, key: str, value: Any, faults: Faults) -> None:
    place = (draft.place, key)
    match key:
        case "id":
            if isinstance(value, str) and _NAME.fullmatch(value):
                draft.id, draft.id_is_broken = value, False
            else:
                draft.id_is_broken = True
                faults.add(place, f"A step's id must be a string of {_NAME_RULE}.", "type")
        case "depends_on":
            draft.depends_on = _read_depends_on(value, place, faults)
        case "timeout":
            draft.timeout_seconds = read_seconds(value, place, faults)
        case "retry":
            draft.retry = read_retry(value, place, faults)
        case "action":
            pass
        case _:
            draft.reserved[key] = value


def _read_depends_on(value: Any, place: Place, faults: Faults) -> list[str | None]:
    if not isinstance(value, list):
        faults.add(place, "`depends_on` must be an array of step ids.", "type")
        return []
    names: list[str | None] = []
    for index, name in enumerate(value):
        if isinstance(name, str):
            names.append(name)
        else:
            faults.add((place, index), "The id of a step is a string.", "type")
            names.append(None)
    return names


def read_seconds(value: Any, place: Place, faults: Faults) -> float | None:
    """A duration as seconds: a number of them, or a string such as `30s`, `5m`, `2h`."""
    seconds: float | None = None
    if isinstance(value, str):
        written = _DURATION.fullmatch(value)
        if written:
            seconds = float(written[1]) * _UNIT_SECONDS[written[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    if seconds is not None and 0 < seconds <= TIMEOUT_SECONDS_MAX:
        return float(seconds)
    rule = "a number of seconds above 0, up to 86,400, or a string such as `30s`, `5m` or `2h`"
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
    if faults.count > faults_before or attempts is None or initial is None or cap is None:
        return None
    return RetryPolicy(attempts, initial, float(backoff), cap)


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


def connect_steps(drafts: Sequence[DraftStep], catalogue: Modules, faults: Faults) -> tuple[Step, ...]:
    """Stage two of the steps: their actions, ids and dependencies. Complete only where no fault was found in any stage."""
    _check_actions(drafts, catalogue, faults)
    ids = _name_steps(drafts, faults)
    dependencies = _resolve_dependencies(drafts, ids, faults)
    _check_cycles(drafts, ids, dependencies, faults)
    return tuple([
        Step(
            ids[index], draft.action or "", tuple([ids[before] for before in dependencies[index]]), draft.parameters,
            draft.timeout_seconds, draft.retry, draft.reserved,
        )
        for index, draft in enumerate(drafts)
    ])  # fmt: skip


def _check_actions(drafts: Sequence[DraftStep], catalogue: Modules, faults: Faults) -> None:
    wanted = {draft.action for draft in drafts if draft.action is not None}
    if len(wanted) <= _ACTIONS_LOOKED_UP_SINGLY_MAX:
        unknown = {action for action in wanted if catalogue.with_action(action) is None}
    else:
        unknown = wanted - {action.name for module in catalogue.by_name.values() for action in module.actions}
    if not unknown:
        return
    known = [action.name for module in catalogue.by_name.values() for action in module.actions]
    for draft in drafts:
        if draft.action is None or draft.action not in unknown:
            continue
        detail = f"No module has the action {quoted(draft.action)}.{did_you_mean(draft.action, known, faults)}"
        faults.add((draft.place, "action"), detail, "unknown-action")


def _name_steps(drafts: Sequence[DraftStep], faults: Faults) -> list[str]:
    """The id of each step: its own, else its action's name with `-2`, `-3` … as long as another step has that id."""
    first_with: dict[str, int] = {}
    for index, draft in enumerate(drafts):
        if draft.id is None:
            continue
        first = first_with.setdefault(draft.id, index)
        if first != index:
            detail = f"Step {first} (counted from 0) has the id {quoted(draft.id)} already."
            faults.add((draft.place, "id"), detail, "duplicate-id")
    taken = set(first_with)
    numbers: dict[str, int] = {}
    ids: list[str] = []
    for draft in drafts:
        if draft.id is not None:
            ids.append(draft.id)
            continue
        action = draft.action or "?"
        number = numbers.get(action, 1)
        while (name := action if number == 1 else f"{action}-{number}") in taken:
            number += 1
        numbers[action] = number + 1
        taken.add(name)
        ids.append(name)
    return ids


def _resolve_dependencies(drafts: Sequence[DraftStep], ids: Sequence[str], faults: Faults) -> list[list[int]]:
    """For each step the indices of those it waits for: those it names, else the one before it."""
    index_of = {step_id: index for index, step_id in reversed(list(enumerate(ids)))}
    # A step whose id could not be read may be the very one that is waited for: no second fault for the same slip.
    all_ids_are_known = not any(draft.id_is_broken for draft in drafts)
    resolved: list[list[int]] = []
    for index, draft in enumerate(drafts):
        if draft.depends_on is None:
            resolved.append([index - 1] if index else [])
            continue
        before: list[int] = []
        for number, name in enumerate(draft.depends_on):
            if name is None:
                continue
            place = ((draft.place, "depends_on"), number)
            other = index_of.get(name)
            if other is None:
                if all_ids_are_known:
                    faults.add(place, f"There is no step {quoted(name)}.{did_you_mean(name, ids, faults)}", "unknown-step")
            elif other == index:
                faults.add(place, "A step cannot wait for itself.", "cycle")
            elif other in before:
                faults.add(place, f"The step {quoted(name)} is named twice.", "duplicate-dependency")
            else:
                before.append(other)
        resolved.append(before)
    return resolved


def _check_cycles(drafts: Sequence[DraftStep], ids: Sequence[str], dependencies: Sequence[Sequence[int]], faults: Faults) -> None:
    """Notes each circle that a depth-first search closes (so at least one of every knot), by the names on its way round."""
    if all(before < index for index, befores in enumerate(dependencies) for before in befores):
        return
    unseen, on_path, done = 0, 1, 2
    marks = [unseen] * len(dependencies)
    for start in range(len(dependencies)):
        if marks[start] != unseen:
            continue
        path, waiting = [start], [iter(dependencies[start])]
        marks[start] = on_path
        while path:
            step = next(waiting[-1], None)
            if step is None:
                marks[path.pop()] = done
                waiting.pop()
            elif marks[step] == unseen:
                marks[step] = on_path
                path.append(step)
                waiting.append(iter(dependencies[step]))
            elif marks[step] == on_path:
                _add_cycle(path[path.index(step) :], drafts, ids, faults)


def _add_cycle(cycle: list[int], drafts: Sequence[DraftStep], ids: Sequence[str], faults: Faults) -> None:
    first = cycle.index(min(cycle))
    cycle = cycle[first:] + cycle[:first]
    # Waiting for the step before is never what closes a circle, so one of its steps names what it waits for.
    at_fault = next(index for index in cycle if drafts[index].depends_on is not None)
    names = [ids[index] for index in cycle[:_CYCLE_NAMES_MAX]]
    if len(cycle) > _CYCLE_NAMES_MAX:
        names.append("…")
    way = " → ".join([*names, ids[cycle[0]]])
    faults.add((drafts[at_fault].place, "depends_on"), f"Steps wait for each other in a circle: {way}.", "cycle")
