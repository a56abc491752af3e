# intent_ref: commands.intent
"""What an intent may be asked, in each of its states."""

from functools import partial
from typing import Any

import pytest

from commands.intent import (
    ActivateIntent,
    ArchiveIntent,
    CreateIntent,
    DeprecateIntent,
    IntentCommand,
    ReviseIntent,
    RollBackIntent,
    claims,
    decide,
)
from domain.definition import Rules
from domain.intent import (
    Intent,
    IntentActivated,
    IntentArchived,
    IntentCreated,
    IntentDeprecated,
    IntentRevised,
    IntentRolledBack,
    evolve,
)
from domain.refusals import DefinitionInvalid, IntentIsArchived, IntentVersionStale, NotFound
from domain.values import Version
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, CATALOGUE, INTENT, NO_MODULES, RULES, after, deployment, steps


def deciding(catalogue: Any = CATALOGUE, rules: Rules = RULES) -> Decider[Intent]:
    return Decider(evolve, partial(decide, catalogue=catalogue, rules=rules))


intent = deciding()
ONE, TWO = deployment(), steps({"action": "a"})
CREATED = IntentCreated(INTENT, "deploy", ONE, "how we deploy", {"team": "web"}, AT)
REVISED = IntentRevised(INTENT, Version(2), TWO, "how we deploy", {"team": "web"}, after(1))
DEPRECATED = IntentDeprecated(INTENT, after(2))
ARCHIVED = IntentArchived(INTENT, "deploy", after(3))
ALL_BUT_CREATE: list[IntentCommand] = [
    ReviseIntent(intent_id=INTENT, definition=TWO, at=AT),
    RollBackIntent(intent_id=INTENT, version=1, at=AT),
    DeprecateIntent(intent_id=INTENT, at=AT),
    ActivateIntent(intent_id=INTENT, at=AT),
    ArchiveIntent(intent_id=INTENT, at=AT),
]


def create(**fields: Any) -> CreateIntent:
    return CreateIntent(**{"intent_id": INTENT, "name": "deploy", "definition": ONE, "at": AT, **fields})


def test_an_intent_keeps_what_it_is_created_with() -> None:
    command = create(description="how we deploy", labels={"team": "web"})
    made = intent.given().when(command).then(CREATED).state
    assert made is not None
    assert (made.status, made.current.version, made.current.definition) == ("active", 1, ONE)


def test_an_intent_without_steps_may_be_created() -> None:
    empty = {"target": "production", "steps": []}
    intent.given().when(create(definition=empty)).then(IntentCreated(INTENT, "deploy", empty, None, {}, AT))


def test_an_intent_is_created_once() -> None:
    intent.given(CREATED).when(create()).then_refused(IntentVersionStale, expected=0, actual=1)


def test_every_fault_of_an_intent_is_reported_at_once() -> None:
    command = create(
        name="", description="a\0b", labels={"team!": "web", "size": "x" * 257, "key": "AKIAIOSFODNN7EXAMPLE"},
        definition={"steps": [{"action": "nobody"}], "target": None},
    )  # fmt: skip
    intent.given().when(command).then_faults(
        DefinitionInvalid,
        ("/name", "invalid-name"),
        ("/description", "unstorable"),
        ("/labels/team!", "invalid-label"),
        ("/labels/size", "oversize"),
        ("/labels/key", "secret"),
        ("/definition", "missing"),
        ("/definition/steps/0/action", "unknown-action"),
    )


def test_labels_are_bounded() -> None:
    most = {f"key-{number}": "x" for number in range(64)}
    assert intent.given().when(create(labels=most)).given.decider.decide(None, create(labels=most))
    intent.given().when(create(labels={**most, "one": "more"})).then_faults(DefinitionInvalid, ("/labels", "too-many-labels"))


def test_a_description_is_bounded() -> None:
    intent.given().when(create(description="x" * 10_000)).then(IntentCreated(INTENT, "deploy", ONE, "x" * 10_000, {}, AT))
    intent.given().when(create(description="x" * 10_001)).then_faults(DefinitionInvalid, ("/description", "oversize"))


def test_a_revision_is_the_next_version_and_keeps_what_it_does_not_mention() -> None:
    command = ReviseIntent(intent_id=INTENT, definition=TWO, expected_version=1, at=after(1))
    revised = intent.given(CREATED).when(command).then(REVISED).state
    assert revised is not None
    assert [version.definition for version in revised.versions] == [ONE, TWO]


def test_a_revision_may_empty_description_and_labels() -> None:
    command = ReviseIntent(intent_id=INTENT, definition=TWO, description="", labels={}, at=after(1))
    intent.given(CREATED).when(command).then(IntentRevised(INTENT, Version(2), TWO, "", {}, after(1)))


def test_a_revision_with_the_same_definition_is_a_version_too() -> None:
    command = ReviseIntent(intent_id=INTENT, definition=ONE, at=after(1))
    expected = IntentRevised(INTENT, Version(2), ONE, "how we deploy", {"team": "web"}, after(1))
    intent.given(CREATED).when(command).then(expected)


def test_a_deprecated_intent_can_be_revised_and_stays_deprecated() -> None:
    command = ReviseIntent(intent_id=INTENT, definition=TWO, at=after(1))
    revised = intent.given(CREATED, DEPRECATED).when(command).then(REVISED).state
    assert revised is not None
    assert revised.status == "deprecated"


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_change_to_a_version_that_is_not_current_is_refused(expected: int) -> None:
    for command in (
        ReviseIntent(intent_id=INTENT, definition=TWO, expected_version=expected, at=AT),
        RollBackIntent(intent_id=INTENT, version=1, expected_version=expected, at=AT),
    ):
        intent.given(CREATED, REVISED).when(command).then_refused(IntentVersionStale, expected=expected, actual=2)


def test_a_revision_is_judged_like_a_creation() -> None:
    command = ReviseIntent(intent_id=INTENT, definition=steps({"action": "nobody"}), labels={"": "x"}, at=AT)
    intent.given(CREATED).when(command).then_faults(
        DefinitionInvalid, ("/labels/", "invalid-label"), ("/definition/steps/0/action", "unknown-action")
    )


def test_a_rollback_is_a_new_version_with_the_old_definition() -> None:
    command = RollBackIntent(intent_id=INTENT, version=1, expected_version=2, at=after(4))
    rolled_back = IntentRolledBack(INTENT, Version(3), Version(1), ONE, after(4))
    state = intent.given(CREATED, REVISED).when(command).then(rolled_back).state
    assert state is not None
    assert (state.current.version, state.current.definition, state.current.rolled_back_to) == (3, ONE, 1)


@pytest.mark.parametrize("version", [-1, 0, 3])
def test_a_rollback_to_a_version_that_never_was_is_refused(version: int) -> None:
    command = RollBackIntent(intent_id=INTENT, version=version, at=AT)
    intent.given(CREATED, REVISED).when(command).then_refused(NotFound, kind="version", identity=str(version))


def test_a_rollback_holds_to_the_rules_of_today() -> None:
    command = RollBackIntent(intent_id=INTENT, version=1, at=AT)
    strict = deciding(rules=Rules(forbidden_targets=("prod*",)))
    strict.given(CREATED, REVISED).when(command).then_faults(DefinitionInvalid, ("/definition/target", "forbidden-target"))


def test_deprecation_activation_and_archiving_happen_once() -> None:
    deprecate, activate = DeprecateIntent(intent_id=INTENT, at=after(2)), ActivateIntent(intent_id=INTENT, at=after(2))
    archive = ArchiveIntent(intent_id=INTENT, at=after(3))
    deprecated = intent.given(CREATED).when(deprecate).then(DEPRECATED)
    deprecated.when(deprecate).then_nothing()
    activated = deprecated.when(activate).then(IntentActivated(INTENT, after(2)))
    activated.when(activate).then_nothing()
    for past in (activated, deprecated):
        past.when(archive).then(ARCHIVED).when(archive).then_nothing()


@pytest.mark.parametrize("command", ALL_BUT_CREATE[:-1])
def test_an_archived_intent_cannot_be_changed(command: IntentCommand) -> None:
    intent.given(CREATED, ARCHIVED).when(command).then_refused(IntentIsArchived, intent_id=INTENT)


@pytest.mark.parametrize("command", ALL_BUT_CREATE)
def test_an_intent_that_is_not_there_is_not_found(command: IntentCommand) -> None:
    intent.given().when(command).then_refused(NotFound, kind="intent", identity=INTENT)


def test_life_without_modules_allows_what_needs_none() -> None:
    bare = deciding(catalogue=NO_MODULES)
    bare.given(CREATED).when(DeprecateIntent(intent_id=INTENT, at=after(2))).then(DEPRECATED)


def test_a_name_is_claimed_by_creation_and_given_back_by_archiving() -> None:
    assert claims([CREATED, REVISED, DEPRECATED]) == [("deploy", True)]
    assert claims([ARCHIVED]) == [("deploy", False)]
    assert claims([REVISED, DEPRECATED, IntentActivated(INTENT, AT)]) == []
