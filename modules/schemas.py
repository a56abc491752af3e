# intent_ref: modules.schemas
"""An action's JSON Schemas held against what goes in and what comes out.

A schema is a tenant's text: it may not make the platform fetch anything, its patterns run in linear time, and what it says of a
large value is yes or no, since telling all that is wrong costs a thousand times more than knowing that something is.
"""

from collections import OrderedDict
from typing import Any

import jsonschema_rs
import orjson

from domain.json_schemas import UnboundedSchema, expanded_size
from modules.contract import ModuleError

_KEPT_MAX = 512
_FAULTS_MAX = 20
_EXPLAINED_MAX = 100_000
"""Subschemas times bytes of the value: up to here a few tenths of a second may go into saying what is wrong."""
_PATTERNS = jsonschema_rs.RegexOptions()


class Schemas:
    """Compiled schemas, the least recently used out first."""

    def __init__(self) -> None:
        self._validators: OrderedDict[bytes, tuple[Any, int | None]] = OrderedDict()

    def check(self, schema: dict[str, Any] | None, value: Any, *, code: str, what: str, retryable: bool) -> None:
        """Raises `ModuleError` with `code` unless `value` fits; `details.errors` has pointer and detail of the first faults."""
        if schema is None:
            return
        validator, size = self._validator(schema, what)
        if validator.is_valid(value):
            return
        if size is None or size * len(orjson.dumps(value)) > _EXPLAINED_MAX:
            raise ModuleError(
                code, f"{what} does not fit the action's schema; it is too large to say where.", retryable=retryable
            )
        faults = []
        for fault in validator.iter_errors(value):
            pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in fault.instance_path)
            faults.append({"pointer": pointer, "detail": fault.message})
            if len(faults) == _FAULTS_MAX:
                break
        if faults:
            first = faults[0]
            raise ModuleError(
                code, f"{what} does not fit the action's schema: {first['detail']} (at {first['pointer'] or 'its root'}).",
                retryable=retryable, details={"errors": faults},
            )  # fmt: skip

    def _validator(self, schema: dict[str, Any], what: str) -> tuple[Any, int | None]:
        """The compiled schema and its expanded size, None for one of a plug-in's that is not bounded."""
        key = orjson.dumps(schema)
        if (known := self._validators.get(key)) is not None:
            self._validators.move_to_end(key)
            return known
        try:
            validator = jsonschema_rs.validator_for(
                schema, retriever=_refuse_to_fetch, pattern_options=_PATTERNS, mask="the value"
            )  # fmt: skip
        except (ValueError, jsonschema_rs.ReferencingError) as fault:
            raise ModuleError(
                "schema-invalid", f"{what} cannot be checked, because the action's schema is wrong: {fault}", retryable=False
            ) from fault
        try:
            size = expanded_size(schema)
        except UnboundedSchema:
            size = None
        self._validators[key] = (validator, size)
        if len(self._validators) > _KEPT_MAX:
            self._validators.popitem(last=False)
        return validator, size


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; put what it refers to under $defs")
