# intent_ref: commands.inputs
"""What an execution is given is filled up and held against what its intent says."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.inputs import faults_of, schema_faults, with_defaults

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "replicas": {"type": "integer", "default": 2},
        "size": {
            "type": "object", "default": {},
            "properties": {"cpu": {"type": "number", "default": 0.5}, "memory": {"$ref": "#/$defs/memory"}},
        },
        "notify": {"type": "object", "properties": {"channel": {"type": "string", "default": "ops"}}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"memory": {"type": "string", "default": "1Gi"}},
}  # fmt: skip


def test_a_sound_schema_has_no_faults():
    assert schema_faults(SCHEMA, "/definition/inputs") == []
    assert schema_faults({}, "/definition/inputs") == []


def test_defaults_stand_in_at_any_depth():
    given_inputs = {"name": "a"}
    assert with_defaults(SCHEMA, given_inputs) == {"name": "a", "replicas": 2, "size": {"cpu": 0.5, "memory": "1Gi"}}
    assert given_inputs == {"name": "a"}
    assert with_defaults(SCHEMA, {"name": "a", "replicas": None, "size": {"cpu": 4}, "notify": {}}) == {
        "name": "a", "replicas": None, "size": {"cpu": 4, "memory": "1Gi"}, "notify": {"channel": "ops"},
    }  # fmt: skip
    assert with_defaults(None, given_inputs) is given_inputs


def test_a_default_is_nobodys_to_change():
    filled = with_defaults(SCHEMA, {"name": "a"})
    filled["size"]["cpu"] = 99
    assert with_defaults(SCHEMA, {"name": "a"})["size"]["cpu"] == 0.5


def test_what_does_not_fit_says_where():
    faults = faults_of(SCHEMA, {"name": "", "replicas": "two", "size": {"cpu": []}, "a/b": 1})
    assert [fault.pointer for fault in faults] == ["/inputs/name", "/inputs/replicas", "/inputs/size/cpu", "/inputs"]
    assert all(fault.detail.endswith(".") for fault in faults)
    assert [fault.pointer for fault in faults_of(SCHEMA, {})] == ["/inputs"]
    assert [fault.pointer for fault in faults_of({}, ["no object"])] == ["/inputs"]
    assert faults_of(None, {"anything": 1}) == []


def test_a_value_is_never_repeated():
    assert "hunter2" not in repr(
        faults_of({"properties": {"a": {"enum": ["x"]}, "b": {"type": "integer"}}}, {"a": "hunter2", "b": "hunter2"})
    )


def test_no_more_than_twenty_faults_are_listed():
    schema = {"additionalProperties": {"type": "integer"}}
    assert len(faults_of(schema, {f"k{number}": "x" for number in range(100)})) == 20


def test_a_large_value_is_told_yes_or_no():
    faults = faults_of({"properties": {"list": {"items": {"type": "integer"}}}}, {"list": [1] * 200_000 + ["x"]})
    assert [fault.pointer for fault in faults] == ["/inputs"]
    assert "too large to say where" in faults[0].detail


@pytest.mark.parametrize(
    ("raw", "pointer", "says"),
    [
        (7, "", "JSON Schema"),
        ([], "", "JSON Schema"),
        ({"type": "array"}, "/type", "object"),
        ({"type": ["object", "null"]}, "/type", "object"),
        ({"properties": {"a": {"type": "strin"}}}, "/properties/a/type", "no JSON Schema"),
        ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern", "no JSON Schema"),
        ({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}, "/properties/a/pattern", "no JSON Schema"),
        ({"properties": {"a": {"type": "string", "default": 1}}}, "/properties/a/default", "does not fit"),
        (
            {"properties": {"a": {"default": {}, "properties": {"b": {"type": "integer", "default": "x"}}}}},
            "/properties/a",
            "does not fit",
        ),
        ({"$ref": "#"}, "", "may not contain themselves"),
        ({"$ref": "https://example.com/schema"}, "", "anchor"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "", "anchor"),
        ({"$schema": "https://example.com/schema"}, "", "no JSON Schema"),
        ({"properties": {"password": {"default": "correct horse battery"}}}, "", "secret"),
    ],
)
def test_a_schema_that_cannot_be_used_says_where_and_why(raw: Any, pointer: str, says: str):
    faults = schema_faults(raw, "/definition/inputs")
    assert faults or says == "secret"
    if faults:
        assert faults[0].pointer.startswith(f"/definition/inputs{pointer}")
        assert says in faults[0].detail


def test_a_schema_that_doubles_with_each_reference_is_refused_before_it_does_any_work():
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}}
    faults = schema_faults({"$defs": doubling, "$ref": "#/$defs/d0"}, "")
    assert "parts" in faults[0].detail


def test_defaults_that_multiply_by_references_are_refused():
    schema = {
        "$defs": {"big": {"default": "x" * 60_000}},
        "properties": {f"p{number}": {"$ref": "#/$defs/big"} for number in range(300)},
    }
    faults = schema_faults(schema, "/inputs")
    assert faults[-1].code == "schema-too-large"


SCHEMA_KEYS = ("type", "properties", "default", "$ref", "$defs", "items", "required", "a", "additionalProperties", "$id")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.sampled_from(["object", "#/$defs/a", "string"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(SCHEMA_KEYS), inner, max_size=4
    ),
    max_leaves=15,
)  # fmt: skip


@given(json_values, json_values)
@settings(deadline=None)
def test_whatever_is_written_is_judged_and_what_passes_can_be_used(raw: Any, inputs: Any):
    if schema_faults(raw, "/inputs"):
        return
    filled = with_defaults(raw, inputs if isinstance(inputs, dict) else {})
    json.dumps(filled)
    faults_of(raw, filled)
    assert with_defaults(raw, filled) == filled
