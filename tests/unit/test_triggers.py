# intent_ref: commands.triggers
"""An event starts what asks for it, and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.expressions import ExpressionFailed
from commands.triggers import matches, read_trigger, trigger_faults

ORDER = {"total": 120, "lines": [{"sku": "a"}, {"sku": "b"}]}
SCOPE = {"tenant": {"id": "tenant-123"}, "event": {"id": "e-1", "subject": "order/7"}}


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ({"type": "order.placed"}, True),
        ({"type": "order.*"}, True),
        ({"type": "*"}, True),
        ({"type": "order"}, False),
        ({"type": "orders.*"}, False),
        ({"type": "order.placed.*"}, False),
        ({"type": "order.placed", "when": "event.data.total > 100"}, True),
        ({"type": "order.placed", "when": "event.data.total > 200"}, False),
        ({"type": "order.placed", "when": "${{ event.subject.startsWith('order/') && tenant.id == 'tenant-123' }}"}, True),
        ({"type": "order.*", "when": "event.type == 'order.placed' && event.data.lines.exists(l, l.sku == 'b')"}, True),
    ],
)
def test_an_event_fires_what_its_type_and_condition_say(trigger: dict[str, Any], expected: bool):
    assert trigger_faults(trigger, "/on") == []
    assert matches(read_trigger(trigger), "order.placed", ORDER, SCOPE) is expected


def test_a_condition_without_a_value_is_said_and_not_taken_for_no():
    trigger = read_trigger({"type": "order.*", "when": "event.data.customer.vip"})
    with pytest.raises(ExpressionFailed, match="customer"):
        matches(trigger, "order.placed", ORDER, SCOPE)
    assert matches(trigger, "invoice.sent", ORDER, SCOPE) is False


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ("order.placed", "/on"),
        ({}, "/on"),
        ({"type": 7}, "/on/type"),
        ({"type": ""}, "/on/type"),
        ({"type": "order.*.placed"}, "/on/type"),
        ({"type": "ord*"}, "/on/type"),
        ({"type": "order placed"}, "/on/type"),
        ({"type": "a." * 150 + "b"}, "/on/type"),
        ({"type": "a", "if": "true"}, "/on/if"),
        ({"type": "a", "when": 7}, "/on/when"),
        ({"type": "a", "when": "1 +"}, "/on/when"),
        ({"type": "a", "when": "'yes'"}, "/on/when"),
        ({"type": "a", "when": "inputs.x"}, "/on/when"),
        ({"type": "a", "when": "steps.build.result"}, "/on/when"),
        ({"type": "a", "when": "event.payload.x == 1"}, "/on/when"),
    ],
)
def test_a_trigger_that_cannot_be_says_where(raw: Any, pointer: str):
    assert [fault.pointer for fault in trigger_faults(raw, "/on")] == [pointer]


@given(
    st.none()
    | st.text()
    | st.dictionaries(st.sampled_from(["type", "when", "x"]), st.none() | st.text() | st.integers() | st.lists(st.text()))
)
def test_whatever_is_written_is_judged(raw: Any):
    if not trigger_faults(raw, "/on"):
        read_trigger(raw)
