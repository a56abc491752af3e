# intent_ref: access.json-schemas
"""Judges JSON Schemas that come from outside. Nothing is ever fetched for one."""

from typing import Any, Final, NoReturn

import jsonschema_rs

from access.http.json_body import pointer
from domain.json_schemas import UnboundedSchema, expanded_size
from domain.refusals import Fault

_META_SCHEMAS: Final = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-04/schema",
    }
)
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def schema_faults(schema: dict[str, Any], place: str) -> list[Fault]:
    """What is wrong with a JSON Schema, by pointers below `place`: no schema, of an unknown draft, referring elsewhere, or one
    that could keep the platform busy for hours."""
    draft = schema.get("$schema")
    if draft is not None and (not isinstance(draft, str) or draft.rstrip("#") not in _META_SCHEMAS):
        return [Fault(f"{place}/$schema", "This must be a JSON Schema draft: 4, 6, 7, 2019-09 or 2020-12.", "invalid-schema")]
    faults = _remote_references(schema, place)
    if faults:
        return faults
    try:
        expanded_size(schema)
        jsonschema_rs.validator_for(schema, retriever=_refuse)
    except UnboundedSchema as fault:
        return [Fault(place, str(fault), "schema-too-complex")]
    except jsonschema_rs.ValidationError as fault:
        sentence = fault.message[:300]
        return [Fault(place + pointer(tuple(fault.instance_path)), f"This is not a JSON Schema: {sentence}", "invalid-schema")]
    except (jsonschema_rs.ReferencingError, ValueError) as fault:
        return [Fault(place, f"This is not a JSON Schema: {str(fault)[:300]}", "invalid-schema")]
    return []


def _remote_references(schema: Any, place: str) -> list[Fault]:
    faults: list[Fault] = []
    left: list[tuple[str, Any]] = [(place, schema)]
    while left:
        here, one = left.pop()
        if isinstance(one, dict):
            for key, value in one.items():
                if key in _REFERENCES and isinstance(value, str) and not value.startswith("#"):
                    sentence = "A reference must stay within the schema, as in `#/$defs/…`."
                    faults.append(Fault(here + pointer((key,)), sentence, "remote-reference"))
                elif isinstance(value, dict | list):
                    left.append((here + pointer((key,)), value))
        elif isinstance(one, list):
            left.extend((f"{here}/{index}", value) for index, value in enumerate(one) if isinstance(value, dict | list))
    return faults[:100]


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not part of the schema")
