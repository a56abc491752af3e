# intent_ref: domain.steps
"""The steps of a definition: how one is written, and how they hang together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.immutable import immutable
from domain.json_values import Faults, Place
from domain.module import Modules, RetryPolicy
from domain.security import quoted
from domain.step_control import CONTROL_KEYS, ActionUse, ControlDraft, read_control
from domain.step_policies import NAME_RULE, did_you_mean, is_name, read_retry, read_seconds

STEP_KEYS = frozenset({"action", "id", "depends_on", "timeout", "retry", *CONTROL_KEYS})

_OF_ACTIONS = frozenset({"timeout", "retry", "timeouts", "heartbeat", "concurrency"})
_CYCLE_NAMES_MAX = 12
_ACTIONS_LOOKED_UP_SINGLY_MAX = 8
_PLAIN = ControlDraft()


@immutable
class Step:
    """A step as the definition says it, id and dependencies filled in.

    Without an action of its own (it runs a workflow, or only waits), `action` is a word for what it does, and `has_action` is
    false. `is_sequel`: it waits for the step before it because it says nothing else.
    """

    id: str
    action: str
    depends_on: tuple[str, ...]
    parameters: dict[str, Any]
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    has_action: bool = True
    is_sequel: bool = False
    control: ControlDraft | None = None


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
    has_action: bool = True
    control: ControlDraft | None = None


def read_step(raw: Any, place: Place, faults: Faults) -> DraftStep:
    """Stage one of a step: its shape. What is not right is noted and read as not said."""
    draft = DraftStep(place)
    if not isinstance(raw, dict):
        faults.add(place, "A step must be an object.", "type")
        draft.id_is_broken = True
        return draft
    raw = _with_gates_spelled_out(raw)
    draft.control = read_control(raw, place, faults)
    action = raw.get("action")
    if is_name(action):
        draft.action = action
        if draft.control is not None and draft.control.workflow is not None:
            faults.add((place, "workflow"), "A step has either an `action` or a `workflow`.", "type")
    elif action is not None:
        draft.id_is_broken = True
        faults.add((place, "action"), f"An action must be a string of {NAME_RULE}.", "type")
    elif (other := _work_in_a_word(draft.control or _PLAIN, raw)) is not None:
        draft.action, draft.has_action = other, False
    else:
        draft.id_is_broken = True
        faults.add(place, "A step must have an `action`.", "missing")
    for key, value in raw.items():
        if key not in STEP_KEYS:
            draft.parameters[key] = value
            if not draft.has_action:
                faults.add((place, key), f"Only actions have parameters; {quoted(str(key))} belongs to none.", "unknown-key")
        elif value is not None and key in _OF_ACTIONS and draft.action is not None and not draft.has_action:
            _note_no_action(key, value, place, faults)
        elif value is not None and key not in CONTROL_KEYS:
            _read_key(draft, key, value, faults)
    if draft.timeout_seconds is None and draft.control is not None:
        draft.timeout_seconds = draft.control.attempt_seconds
    return draft


def _note_no_action(key: str, value: Any, place: Place, faults: Faults) -> None:
    """Any step has a time as a whole (`timeouts.total`); what else is about attempts is the business of actions."""
    keys = [inner for inner in value if inner != "total"] if key == "timeouts" and isinstance(value, dict) else [None]
    for inner in keys:
        where = (place, key) if inner is None else ((place, key), inner)
        shown = key if inner is None else f"{key}.{inner}"
        detail = f"{quoted(shown)} is about an action's attempts, and this step has none. It may have `timeouts.total`."
        faults.add(where, detail, "no-action")


def _with_gates_spelled_out(raw: dict[str, Any]) -> dict[str, Any]:
    """`{"action": "wait", "for": …}` is `{"wait": {"for": …}}`, and an approval may be written in the same way."""
    words: tuple[str, ...]
    if raw.get("action") == "wait" and ("for" in raw or "until" in raw):
        key, words = "wait", ("for", "until", "zone")
    elif raw.get("action") == "approval":
        key, words = "approval", ("roles", "expires_in", "on_expiry", "message")
    else:
        return raw
    left = {name: value for name, value in raw.items() if name not in words and name != "action"}
    return {**left, key: {name: raw[name] for name in words if name in raw}}


def _work_in_a_word(control: ControlDraft, raw: dict[str, Any]) -> str | None:
    """What a step without an action does, where it does anything."""
    if raw.get("workflow") is not None:
        return "workflow"
    if control.gates:
        return control.gates[-1].kind
    return next((key for key in ("approval", "signal", "wait") if raw.get(key) is not None), None)


def _read_key(draft: DraftStep, key: str, value: Any, faults: Faults) -> None:
    place = (draft.place, key)
    match key:
        case "id":
            if is_name(value):
                draft.id, draft.id_is_broken = value, False
            else:
                draft.id_is_broken = True
                faults.add(place, f"A step's id must be a string of {NAME_RULE}.", "type")
        case "depends_on":
            draft.depends_on = _read_depends_on(value, place, faults)
        case "timeout":
            draft.timeout_seconds = read_seconds(value, place, faults)
        case "retry":
            draft.retry = read_retry(value, place, faults)
        case _:
            pass


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


def connect_steps(drafts: Sequence[DraftStep], catalogue: Modules, faults: Faults) -> tuple[Step, ...]:
    """Stage two of the steps: their actions, ids and dependencies. Complete only where no fault was found in any stage."""
    _check_actions(drafts, catalogue, faults)
    ids = _name_steps(drafts, faults)
    dependencies = _resolve_dependencies(drafts, ids, faults)
    _check_joins(drafts, dependencies, faults)
    _check_cycles(drafts, ids, dependencies, faults)
    return tuple([
        Step(
            ids[index], draft.action or "", tuple([ids[before] for before in dependencies[index]]), draft.parameters,
            draft.timeout_seconds, draft.retry, draft.has_action, draft.depends_on is None, draft.control,
        )
        for index, draft in enumerate(drafts)
    ])  # fmt: skip


def _check_actions(drafts: Sequence[DraftStep], catalogue: Modules, faults: Faults) -> None:
    uses = [(draft.action, (draft.place, "action")) for draft in drafts if draft.action is not None and draft.has_action]
    for draft in drafts:
        if draft.control is not None:
            others: list[ActionUse] = [use for use in (draft.control.fallback, draft.control.compensate) if use is not None]
            uses += [(use.action, (use.place, "action")) for use in others]
    wanted = {action for action, _ in uses}
    if len(wanted) <= _ACTIONS_LOOKED_UP_SINGLY_MAX:
        unknown = {action for action in wanted if catalogue.with_action(action) is None}
    else:
        unknown = wanted - {action.name for module in catalogue.by_name.values() for action in module.actions}
    if not unknown:
        return
    known = [action.name for module in catalogue.by_name.values() for action in module.actions]
    for action, place in uses:
        if action in unknown:
            faults.add(
                place, f"No module has the action {quoted(action)}.{did_you_mean(action, known, faults)}", "unknown-action"
            )


def _check_joins(drafts: Sequence[DraftStep], dependencies: Sequence[Sequence[int]], faults: Faults) -> None:
    for draft, before in zip(drafts, dependencies, strict=True):
        join = draft.control.join if draft.control is not None else None
        if isinstance(join, int) and join > len(before):
            detail = f"The step waits for {len(before)} steps, so {join} of them can never be done."
            faults.add((draft.place, "join"), detail, "invalid-join")


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
