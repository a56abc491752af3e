# intent_ref: commands.inputs
"""An intent's `inputs`: a JSON Schema that says what an execution is given, and what stands in for what it is not.

The schema is an author's text, as a module's are: it is bounded before it is asked to do any work, it may not make the platform
fetch anything, its patterns run in linear time, and of a large value it says yes or no only, since telling all that is wrong
costs a thousand times more than knowing that something is.
"""

import copy
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from domain.json_schemas import UnboundedSchema, expanded_size
from domain.json_values import Limits, Place, pointer, value_faults
from domain.refusals import Fault

_LIMITS = Limits(values_max=5_000, definition_bytes_max=262_144)
_FAULTS_MAX = 20
_EXPLAINED_MAX = 100_000
"""Subschemas times bytes of the value: up to here a few tenths of a second may go into saying what is wrong."""
_DEPTH_MAX = 64
_KEPT_MAX = 512
_JUDGED_BYTES_MAX = 1_048_576
_DEFAULTS_BYTES_MAX = 262_144
_SHARED = ("$schema", "$defs", "definitions")
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=1_048_576, dfa_size_limit=1_048_576)


def schema_faults(raw: Any, place: str) -> list[Fault]:
    """What is wrong with an `inputs` section, by JSON pointers below `place`; an empty list for one that can be used.

    It is a JSON Schema of an object (`type` left out means that), without references to itself or to the outside, of at most
    1,000 parts with its references written out. Its defaults must fit it.
    """
    if not isinstance(raw, dict):
        return [Fault(place, "`inputs` must be a JSON Schema: an object with `properties`.", "type")]
    faults = value_faults(raw, place, _LIMITS, look_for_secrets=True)
    if faults:
        return faults
    if raw.get("type", "object") != "object":
        return [Fault(pointer((place, "type")), "Inputs are always an object: `type` must be `object`.", "type")]
    try:
        expanded_size(raw)
        _validator(orjson.dumps(_of_object(raw)))
    except UnboundedSchema as fault:
        return [Fault(place, str(fault), "schema-too-large")]
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as fault:
        return [_fault_of_schema(fault, place)]
    return _defaults_faults(raw, place)


def with_defaults(schema: dict[str, Any] | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with every default of the schema that they leave unsaid, at any depth of objects; `inputs` stays as it is.

    An object that is missing is made where it has a default itself. Defaults inside of `items`, `anyOf` and the like are not
    taken: which of them applies is a matter of the value.
    """
    if schema is None:
        return inputs
    return _filled(schema, inputs, schema, 0)


def faults_of(schema: dict[str, Any] | None, inputs: Any, place: str = "/inputs") -> list[Fault]:
    """Why the inputs do not fit the schema, each with its JSON pointer, at most 20; none where there is no schema."""
    if schema is None:
        return []
    try:
        validator = _validator(orjson.dumps(_of_object(schema)))
        if validator.is_valid(inputs):
            return []
        size = expanded_size(schema)
        if size * len(orjson.dumps(inputs)) > _EXPLAINED_MAX:
            return [Fault(place, "This does not fit the intent's `inputs`; it is too large to say where.", "schema")]
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, UnboundedSchema, ValueError, TypeError) as fault:
        return [Fault(place, f"This cannot be held against the intent's `inputs`: {str(fault)[:300]}", "schema")]
    faults: list[Fault] = []
    for found in validator.iter_errors(inputs):
        here: Place = place
        for key in found.instance_path:
            here = (here, key)
        faults.append(Fault(pointer(here), _sentence(found.message), "schema"))
        if len(faults) == _FAULTS_MAX:
            break
    return faults


def _of_object(schema: dict[str, Any]) -> dict[str, Any]:
    return schema if "type" in schema else {**schema, "type": "object"}


def _compiled(schema: bytes) -> Any:
    # `mask` keeps the value out of the messages: it may hold what is nobody's business.
    return jsonschema_rs.validator_for(
        orjson.loads(schema), retriever=_refuse_to_fetch, pattern_options=_PATTERNS, mask="the value"
    )  # fmt: skip


_validator = lru_cache(maxsize=_KEPT_MAX)(_compiled)


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; put what it refers to under $defs")


def _fault_of_schema(fault: Exception, place: str) -> Fault:
    here: Place = place
    message = str(fault)
    if isinstance(fault, jsonschema_rs.ValidationError):
        for key in fault.instance_path:
            here = (here, key)
        message = fault.message
    return Fault(pointer(here), f"This is no JSON Schema: {_sentence(message)}"[:500], "invalid-schema")


def _sentence(message: str) -> str:
    shown = message[:300].strip()
    return shown[:1].upper() + shown[1:] + ("" if shown.endswith((".", "!", "?")) else ".")


def _filled(schema: Any, value: dict[str, Any], root: dict[str, Any], depth: int) -> dict[str, Any]:
    schema = _behind_reference(schema, root)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or depth > _DEPTH_MAX:
        return value
    filled = value
    for name, given in properties.items():
        part = _behind_reference(given, root)
        if not isinstance(part, dict):
            continue
        is_there = name in filled
        if not is_there and "default" not in part:
            continue
        found = filled[name] if is_there else copy.deepcopy(part["default"])
        completed = _filled(part, found, root, depth + 1) if isinstance(found, dict) else found
        if not is_there or completed is not found:
            filled = {**filled, name: completed} if filled is value else _put(filled, name, completed)
    return filled


def _put(filled: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    filled[name] = value
    return filled


def _behind_reference(schema: Any, root: dict[str, Any]) -> Any:
    """What a `$ref` within the schema leads to, what stands beside it winning; the schema itself for any other reference."""
    for _ in range(_DEPTH_MAX):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        found: Any = root
        for part in reference[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                return schema
            found = found[name]
        if not isinstance(found, dict):
            return found
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _defaults_faults(raw: dict[str, Any], place: str) -> list[Fault]:
    """Defaults that do not fit what they are the default of, and defaults that come to too much with references written out."""
    faults: list[Fault] = []
    size = work = 0
    left: list[tuple[Place, Any, int]] = [(place, raw, 0)]
    while left and len(faults) < _FAULTS_MAX:
        here, given, depth = left.pop()
        schema = _behind_reference(given, raw)
        if not isinstance(schema, dict) or depth > _DEPTH_MAX:
            continue
        if "default" in schema:
            size += len(orjson.dumps(schema["default"]))
            own = {key: value for key, value in schema.items() if key != "default"}
            judged = orjson.dumps({**{key: raw[key] for key in _SHARED if key in raw}, **own})
            work += len(judged)
            # Past so much text, defaults are judged when they are used, with the rest of the inputs.
            if work <= _JUDGED_BYTES_MAX and not _is_fitting(judged, schema, raw):
                detail = "This default does not fit what it is the default of."
                faults.append(Fault(pointer((here, "default")), detail, "schema"))
        properties = schema.get("properties")
        if isinstance(properties, dict):
            left.extend((((here, "properties"), name), part, depth + 1) for name, part in properties.items())
        if size > _DEFAULTS_BYTES_MAX:
            detail = f"With its references written out, its defaults have more than {_DEFAULTS_BYTES_MAX:,} bytes."
            return [Fault(place, detail, "schema-too-large")]
    return faults


def _is_fitting(judged: bytes, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    value = schema["default"]
    try:
        return bool(_compiled(judged).is_valid(_filled(schema, value, root, 0) if isinstance(value, dict) else value))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return True  # a reference that only the whole schema can follow; executing says the rest
