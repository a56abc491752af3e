# intent_ref: domain.json-schemas
"""A schema that could keep the platform busy is known before it is asked anything."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from access.http.json_schemas import schema_faults
from domain.json_schemas import SUBSCHEMAS_MAX, UnboundedSchema, expanded_size
from modules.contract import ModuleError
from modules.schemas import Schemas


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    parts: dict[str, Any] = {
        f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{levels}": {"type": "string"}}}


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf", "allOf", "prefixItems"])
@pytest.mark.parametrize("levels", [20, 60, 190])
def test_references_that_double_at_each_step_are_refused_at_once(keyword: str, levels: int):
    with pytest.raises(UnboundedSchema):
        expanded_size(doubling(keyword, levels))
    assert [fault.code for fault in schema_faults(doubling(keyword, levels), "/x")] == ["schema-too-complex"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"next": {"$ref": "#"}}},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$anchor": "me", "properties": {"a": {"anyOf": [{"$ref": "#me"}, {"$ref": "#me"}]}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"$id": "#a", "not": {"$ref": "#a"}}}},
        {"$recursiveRef": "#"}, {"$dynamicRef": "#x", "$dynamicAnchor": "x"}, {"$ref": "#/nowhere"}, {"$ref": "#nowhere"},
        {"$defs": {"a": {"$id": "https://example.com/a", "$ref": "#/b", "b": {}}}},
        {"properties": {"enum": {"$ref": "#"}}}, {"properties": {"const": {"not": {"$ref": "#"}}}},
        {"$defs": {"a/b": {"$ref": "#/$defs/a~1b"}, "c d": {}}, "not": {"$ref": "#/$defs/a~1b"}},
        {"anyOf": [{}] * (SUBSCHEMAS_MAX + 1)},
    ],
)  # fmt: skip
def test_what_contains_itself_or_cannot_be_followed_or_is_too_large_is_refused(schema: dict[str, Any]):
    with pytest.raises(UnboundedSchema):
        expanded_size(schema)


def test_references_to_a_common_part_are_counted_each_time():
    address = {"type": "object", "properties": {"street": {"type": "string"}, "lines": {"items": {"type": "string"}}}}
    once = {"$defs": {"a": address}, "properties": {"home": {"$ref": "#/$defs/a"}}}
    twice = {"$defs": {"a": address}, "properties": {"home": {"$ref": "#/$defs/a"}, "work": {"$ref": "#/$defs/a"}}}
    assert 0 < expanded_size(twice) - expanded_size(once) == expanded_size(address) + 1
    assert schema_faults(twice, "/x") == []


def test_data_in_a_schema_is_no_schema():
    assert expanded_size({"enum": [{"$ref": "#"}], "default": {"$ref": "#/x"}, "const": {"$id": "x"}}) == 1


def test_names_of_properties_mean_nothing():
    assert expanded_size({"properties": {"$ref": {"type": "string"}, "enum": {}, "$id": {}}}) == 5


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.booleans()
        | st.fixed_dictionaries({}, optional={"type": st.just("string"), "$ref": st.sampled_from(["#", "#/$defs/a"])}),
        lambda inner: st.fixed_dictionaries(
            {},
            optional={
                "anyOf": st.lists(inner, min_size=1, max_size=3),
                "properties": st.dictionaries(st.sampled_from(["a", "b", "$ref"]), inner, max_size=2),
                "not": inner,
                "$defs": st.fixed_dictionaries({"a": inner}),
            },
        ),
    )
)
def test_any_schema_is_measured_or_refused(schema: Any):
    try:
        assert 0 <= expanded_size(schema) <= SUBSCHEMAS_MAX
    except UnboundedSchema as refused:
        assert str(refused)


def test_a_large_value_that_does_not_fit_is_refused_without_a_word_on_each_place():
    schema = {"items": {"anyOf": [{"type": "string"}] * 900}}
    with pytest.raises(ModuleError, match="too large to say where") as refused:
        Schemas().check(schema, list(range(50_000)), code="input-invalid", what="The input", retryable=False)
    assert refused.value.code == "input-invalid"
    Schemas().check(schema, ["fits"] * 1_000, code="input-invalid", what="The input", retryable=False)


def test_a_small_value_that_does_not_fit_is_told_where():
    schema = {"properties": {"replicas": {"type": "integer"}}, "required": ["image"]}
    with pytest.raises(ModuleError) as refused:
        Schemas().check(schema, {"replicas": "three"}, code="input-invalid", what="The input", retryable=False)
    assert {fault["pointer"] for fault in refused.value.details["errors"]} == {"/replicas", ""}
