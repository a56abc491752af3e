# intent_ref: commands.intent
"""What one may ask of an intent, and what then happens."""

from collections.abc import Sequence
from typing import Any, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict

from commands.definitions import checked_definition
from domain.definition import Rules
from domain.input_rules import intent_faults
from domain.intent import (
    Intent,
    IntentActivated,
    IntentArchived,
    IntentCreated,
    IntentDeprecated,
    IntentEvent,
    IntentRevised,
    IntentRolledBack,
    IntentSchedulePaused,
    IntentScheduleResumed,
)
from domain.module import Modules
from domain.refusals import (
    DefinitionInvalid,
    IntentHasNoSchedule,
    IntentIsArchived,
    IntentVersionStale,
    NotFound,
    TooManyVersions,
)
from domain.values import IntentId, Version

NAME_SCOPE = "intent-name"
VERSIONS_MAX = 1_000


class CreateIntent(BaseModel):
    """Let there be an intent with this first version."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    name: str
    definition: Any
    description: str | None = None
    labels: dict[str, str] = {}
    at: AwareDatetime


class ReviseIntent(BaseModel):
    """Let this be the intent's next version. `description` and `labels` stay as they are where None."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    definition: Any
    expected_version: int | None = None
    description: str | None = None
    labels: dict[str, str] | None = None
    at: AwareDatetime


class RollBackIntent(BaseModel):
    """Let the next version say what `version` said."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    version: int
    expected_version: int | None = None
    at: AwareDatetime


class DeprecateIntent(BaseModel):
    """Let people know that the intent has had its day; it still works."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    at: AwareDatetime


class ActivateIntent(BaseModel):
    """Let the deprecated intent be in favour again."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    at: AwareDatetime


class ArchiveIntent(BaseModel):
    """Let the intent rest: its history stays, its name is free."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    at: AwareDatetime


class PauseSchedule(BaseModel):
    """Let the intent's schedule start nothing until it is resumed."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    at: AwareDatetime


class ResumeSchedule(BaseModel):
    """Let the intent's paused schedule go on."""

    model_config = ConfigDict(frozen=True)
    intent_id: IntentId
    at: AwareDatetime


IntentCommand = (
    CreateIntent | ReviseIntent | RollBackIntent | DeprecateIntent | ActivateIntent | ArchiveIntent | PauseSchedule
    | ResumeSchedule
)  # fmt: skip


def decide(state: Intent | None, command: IntentCommand, catalogue: Modules, rules: Rules) -> list[IntentEvent]:
    """What happens on `command`; nothing where the intent is that way already.

    Raises `NotFound`, `IntentIsArchived`, `IntentVersionStale`, `IntentHasNoSchedule` or `DefinitionInvalid`.
    """
    if isinstance(command, CreateIntent):
        return _created(state, command, catalogue, rules)
    if state is None:
        raise NotFound("intent", command.intent_id)
    match command, state.status:
        case ArchiveIntent(), "archived":
            return []
        case _, "archived":
            raise IntentIsArchived(command.intent_id)
        case ReviseIntent(), _:
            return _revised(state, command, catalogue, rules)
        case RollBackIntent(), _:
            return _rolled_back(state, command, catalogue, rules)
        case DeprecateIntent(), "active":
            return [IntentDeprecated(command.intent_id, command.at)]
        case ActivateIntent(), "deprecated":
            return [IntentActivated(command.intent_id, command.at)]
        case DeprecateIntent() | ActivateIntent(), _:
            return []
        case ArchiveIntent(), _:
            return [IntentArchived(command.intent_id, state.name, command.at)]
        case PauseSchedule() | ResumeSchedule(), _:
            return _paused_or_resumed(state, command)
        case _:
            assert_never(command)


def claims(events: Sequence[IntentEvent]) -> list[tuple[str, bool]]:
    """(name, whether it is taken or given back) for each event that does either, in the scope `NAME_SCOPE`."""
    claimed: list[tuple[str, bool]] = []
    for event in events:
        if isinstance(event, IntentCreated):
            claimed.append((event.name, True))
        elif isinstance(event, IntentArchived):
            claimed.append((event.name, False))
    return claimed


def _created(state: Intent | None, command: CreateIntent, catalogue: Modules, rules: Rules) -> list[IntentEvent]:
    if state is not None:
        raise IntentVersionStale(command.intent_id, 0, state.current.version)
    _check(command, catalogue, rules)
    return [
        IntentCreated(
            command.intent_id, command.name, command.definition, command.description, command.labels, command.at
        )
    ]  # fmt: skip


def _revised(state: Intent, command: ReviseIntent, catalogue: Modules, rules: Rules) -> list[IntentEvent]:
    _check_version(state, command.expected_version)
    _check(command, catalogue, rules)
    description = state.description if command.description is None else command.description
    labels = state.labels if command.labels is None else command.labels
    version = _next_version(state)
    return [IntentRevised(command.intent_id, version, command.definition, description, labels, command.at)]


def _rolled_back(state: Intent, command: RollBackIntent, catalogue: Modules, rules: Rules) -> list[IntentEvent]:
    _check_version(state, command.expected_version)
    old = state.version(command.version)
    if old is None:
        raise NotFound("version", str(command.version), f"of the intent {command.intent_id}")
    # Rules may have grown stricter since: what is new in the log today holds to the rules of today.
    checked_definition(old.definition, catalogue, rules)
    version = _next_version(state)
    return [IntentRolledBack(command.intent_id, version, old.version, old.definition, command.at)]


def _paused_or_resumed(state: Intent, command: PauseSchedule | ResumeSchedule) -> list[IntentEvent]:
    pauses = isinstance(command, PauseSchedule)
    if state.schedule_paused == pauses:
        return []
    if state.current.definition.get("schedule") is None:
        raise IntentHasNoSchedule(command.intent_id)
    if pauses:
        return [IntentSchedulePaused(command.intent_id, command.at)]
    return [IntentScheduleResumed(command.intent_id, command.at)]


def _check_version(state: Intent, expected: int | None) -> None:
    if expected is not None and expected != state.current.version:
        raise IntentVersionStale(state.intent_id, expected, state.current.version)


def _check(command: CreateIntent | ReviseIntent, catalogue: Modules, rules: Rules) -> None:
    """Raises `DefinitionInvalid` with what is wrong around the definition and in it, all at once.

    Parameters are held against their action's `input_schema` when it is asked, with what expressions have come to by then.
    """
    name = command.name if isinstance(command, CreateIntent) else None
    faults = intent_faults(name, command.description, command.labels)
    try:
        checked_definition(command.definition, catalogue, rules)
    except DefinitionInvalid as refusal:
        faults.extend(refusal.faults)
    if faults:
        raise DefinitionInvalid(faults)


def _next_version(state: Intent) -> Version:
    """Raises `TooManyVersions`: an intent is loaded with all it has had."""
    if state.current.version >= VERSIONS_MAX:
        raise TooManyVersions(state.intent_id, VERSIONS_MAX)
    return Version(state.current.version + 1)
