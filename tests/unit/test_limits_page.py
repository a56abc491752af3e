# intent_ref: tests.tenant-limits
"""The figures of docs/limits.md are those of the code."""

from pathlib import Path

import pytest

from access.holding_limits import INTENTS_MAX, SCHEDULES_MAX, TRIGGERS_MAX
from access.http.queries import LIMIT_MAX
from access.http.request_keys import WAIT_SECONDS_MAX, WAITING_MAX
from commands.again import RERUNS_MAX
from commands.beginnings import RESOURCES_MAX, SLOT_KEY_CHARS_MAX
from commands.custom_event import DATA_BYTES_MAX, EVENTS_MAX
from commands.execution import REASON_CHARS_MAX, SIGNAL_BYTES_MAX, SIGNALS_KEPT_MAX
from commands.execution_start import BUSINESS_KEY_CHARS_MAX, DEPTH_MAX
from commands.expressions.faults import EXPRESSION_BYTES_MAX, EXPRESSIONS_MAX, WORK_MAX
from commands.expressions.faults import RESULT_BYTES_MAX as VALUE_OF_EXPRESSION_BYTES_MAX
from commands.intent import VERSIONS_MAX
from commands.kept_values import DECISION_BYTES_MAX
from commands.kept_values import VALUE_BYTES_MAX as VALUE_IN_LOG_BYTES_MAX
from commands.module import MODULES_MAX
from commands.progress import ACTIVE_MAX
from commands.pull_subscription import PULL_SUBSCRIPTIONS_MAX
from commands.recorded_events import EVENT_BYTES_MAX
from commands.subscription import SUBSCRIPTIONS_MAX
from domain.definition import INPUT_TEXT_BYTES_MAX, TARGET_CHARS_MAX
from domain.input_rules import (
    ACTIONS_MAX,
    DESCRIPTION_CHARS_MAX,
    LABEL_KEY_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    NAME_CHARS_MAX,
)
from domain.json_values import Limits
from domain.pull_subscription import UNACKNOWLEDGED_MAX
from domain.step_control import ALL_ITEMS_MAX, ITEMS_AT_ONCE_DEFAULT, ITEMS_MAX, ROLES_MAX
from domain.step_policies import ATTEMPTS_MAX, PUT_OFF_MAX, PUT_OFF_SECONDS_MAX
from domain.subscription_rules import DESCRIPTION_CHARS_MAX as SUBSCRIPTION_DESCRIPTION_CHARS_MAX
from domain.subscription_rules import HEADER_VALUE_CHARS_MAX, HEADERS_MAX, IN_FLIGHT_MAX, PATTERNS_MAX
from domain.tenant_limits import COUNT_MAX
from event_store.group_commit import QUEUE_MAX
from event_store.request_keys import ANSWER_BYTES_MAX, KEPT_SECONDS
from modules.artifacts.inputs import InputArtifacts
from modules.results import _MESSAGE_CHARS_MAX as MESSAGE_CHARS_MAX
from modules.results import RESULT_BYTES_MAX
from modules.secrets.files import SECRETS_MAX
from modules.secrets.references import REFERENCES_MAX
from modules.secrets.resolving import VALUE_BYTES_MAX
from quantum.settings import Settings, variable
from read_api.events import FOLLOWERS_MAX, TENANT_FOLLOWERS_MAX
from sagas.trigger_starts import TENANT_STARTS_MAX
from sagas.triggers import DEPTH_MAX as TRIGGERS_DEPTH_MAX
from streaming.pull_subscriptions import DEAD_LETTERS_MAX
from write_api.bulk import ITEMS_MAX as ITEMS_IN_BULK_MAX
from write_api.work import POLLS_MAX, TENANT_POLLS_MAX

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
_LIMITS = Limits()
_BYTES = {1_024: "KiB", 1_048_576: "MiB", 1_073_741_824: "GiB"}


def size(count: int) -> str:
    """A number of bytes as the page says it."""
    unit = max(one for one in _BYTES if count >= one and count % one == 0)
    return f"{count // unit} {_BYTES[unit]}"


def setting(name: str) -> int:
    """What holds where nothing is set."""
    default: int = Settings.model_fields[name].default
    return default


ROWS: dict[str, str] = {
    "request body": size(setting("request_bytes_max")),
    "nesting of a request": str(setting("depth_max")),
    "one text in a definition; all of them": f"{size(_LIMITS.value_bytes_max)}; {size(_LIMITS.definition_bytes_max)}",
    "one text in inputs; all of them": f"{size(INPUT_TEXT_BYTES_MAX)}; {size(_LIMITS.definition_bytes_max)}",
    "inputs of an execution in the log": f"{size(InputArtifacts.inline_bytes_max)}, else [artifacts](artifacts.md)",
    "an answer that is kept for its `Idempotency-Key`; how long": f"{size(ANSWER_BYTES_MAX)}; {KEPT_SECONDS / 3_600:g} hours",
    "requests that wait for the answer of the same one, in a process; how long": f"{WAITING_MAX}; {WAIT_SECONDS_MAX:g} seconds",
    "executions of one bulk request": str(ITEMS_IN_BULK_MAX),
    "values in a definition or in inputs": f"{_LIMITS.values_max:,}",
    "steps of an intent": str(setting("steps_max")),
    "versions of an intent": f"{VERSIONS_MAX:,}",
    "intents of a tenant; that start upon events; at times": f"{INTENTS_MAX:,}; {TRIGGERS_MAX:,}; {SCHEDULES_MAX:,}",
    "starts of a tenant that were refused and are kept": f"{TENANT_STARTS_MAX:,}",
    "labels; a key; a value": f"{LABELS_MAX}; {LABEL_KEY_CHARS_MAX}; {LABEL_VALUE_CHARS_MAX} characters",
    "a name; a description of an intent; of a subscription": (
        f"{NAME_CHARS_MAX}; {DESCRIPTION_CHARS_MAX:,}; {SUBSCRIPTION_DESCRIPTION_CHARS_MAX:,} characters"
    ),
    "a comment, a reason; a business key": f"{REASON_CHARS_MAX:,}; {BUSINESS_KEY_CHARS_MAX} characters",
    "roles of an approval": str(ROLES_MAX),
    "a target; a concurrency key": f"{TARGET_CHARS_MAX}; {SLOT_KEY_CHARS_MAX} characters",
    "the message of an error; its details": f"{MESSAGE_CHARS_MAX:,} characters; {size(RESULT_BYTES_MAX)}",
    "expressions in a definition; one; what one may do": (
        f"{EXPRESSIONS_MAX}; {size(EXPRESSION_BYTES_MAX)}; {WORK_MAX:,} steps of work"
    ),
    "items of a loop; of all loops of an execution": f"{ITEMS_MAX:,}; {ALL_ITEMS_MAX:,}",
    "items of a loop under way": f"{ITEMS_AT_ONCE_DEFAULT} unless said",
    "runs that loops of an execution bring under way": f"{ACTIVE_MAX:,}, and one for each loop",
    "results of a loop, together": f"{size(VALUE_IN_LOG_BYTES_MAX)}, else [artifacts](artifacts.md)",
    "values that begin together in one decision": size(DECISION_BYTES_MAX),
    "an event": size(EVENT_BYTES_MAX),
    "executions that run for one another": f"{DEPTH_MAX} deep",
    "executions that one starts, with all that these start in turn": f"{setting('execution_descendants_max'):,}",
    "executions that start one another by events": f"{TRIGGERS_DEPTH_MAX} deep",
    "retries and reruns of an execution": f"{RERUNS_MAX:,}",
    "attempts of a step": str(ATTEMPTS_MAX),
    "an attempt that cannot be made at all is put off": (
        f"{PUT_OFF_MAX:,} times in a row, or {PUT_OFF_SECONDS_MAX / 3_600:g} hours"
    ),
    "signals kept that no step has asked for; one": f"{SIGNALS_KEPT_MAX}; {size(SIGNAL_BYTES_MAX)}",
    "the value of an expression": size(VALUE_OF_EXPRESSION_BYTES_MAX),
    "events that steps of an execution emit; one": f"{EVENTS_MAX:,}; {size(DATA_BYTES_MAX)}",
    "a step's result": f"{size(RESULT_BYTES_MAX)}, else an artifact of up to {size(setting('artifact_bytes_max'))}",
    "artifacts of a tenant; how long": f"{size(setting('artifact_tenant_bytes_max'))}; {setting('artifact_days')} days",
    "resources that one result declares": str(RESOURCES_MAX),
    "modules of a tenant; actions of a module": f"{MODULES_MAX}; {ACTIONS_MAX}",
    "`secret://` references in one call": str(REFERENCES_MAX),
    "patterns of a subscription; headers; one": f"{PATTERNS_MAX}; {HEADERS_MAX}; {HEADER_VALUE_CHARS_MAX:,} characters",
    "webhooks of a tenant; under way for one": f"{SUBSCRIPTIONS_MAX}; {IN_FLIGHT_MAX}",
    "pull subscriptions of a tenant; unacknowledged": f"{PULL_SUBSCRIPTIONS_MAX}; {UNACKNOWLEDGED_MAX:,}",
    "dead letters of a pull subscription": f"{DEAD_LETTERS_MAX:,}",
    "workers that wait for work, in a process; of a tenant": f"{POLLS_MAX:,}; {TENANT_POLLS_MAX}",
    "followers of events, in a process; of a tenant": f"{FOLLOWERS_MAX:,}; {TENANT_FOLLOWERS_MAX:,}",
    "secrets of a tenant; one": f"{SECRETS_MAX:,}; {size(VALUE_BYTES_MAX)}",
    "calls under way in a process; of one tenant": (
        f"{setting('worker_concurrency')}; {setting('worker_concurrency') * 7 // 8} (7 of 8)"
    ),
    "appends that wait in a process": f"{QUEUE_MAX:,}",
    "a page of a list": str(LIMIT_MAX),
}


@pytest.mark.parametrize("what", ROWS)
def test_a_figure_of_the_page_is_that_of_the_code(what: str):
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {what} | ")]
    assert len(rows) == 1
    assert rows[0].split(" | ")[1] == ROWS[what]


def test_every_setting_of_a_limit_of_tenants_is_on_the_page():
    names = [name for name in Settings.model_fields if name.startswith("tenant_")]
    assert len(names) == 5
    for name in names:
        assert f"`{variable(name)}`" in PAGE
    assert f"{COUNT_MAX:,} lifts a default" in PAGE
