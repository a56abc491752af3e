# intent_ref: modules.schemas
"""An action's JSON Schemas held against what goes in and what comes out.

A schema is a tenant's text: it may not make the platform fetch anything, and its patterns run in linear time.
"""

from collections import OrderedDict
from typing import Any

import jsonschema_rs
import orjson

from modules.contract import ModuleError

_KEPT_MAX = 512
_FAULTS_MAX = 20
_PATTERNS = jsonschema_rs.RegexOptions()


class Schemas:
    """Compiled schemas, the least recently used out first."""

    def __init__(self) -> None:
        self._validators: OrderedDict[bytes, Any] = OrderedDict()

    def check(self, schema: dict[str, Any] | None, value: Any, *, code: str, what: str, retryable: bool) -> None:
        """Raises `ModuleError` with `code` unless `value` fits; `details.errors` has pointer and detail of the first faults."""
        if schema is None:
            return
        faults = []
        for fault in self._validator(schema, what).iter_errors(value):
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

    def _validator(self, schema: dict[str, Any], what: str) -> Any:
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
        self._validators[key] = validator
        if len(self._validators) > _KEPT_MAX:
            self._validators.popitem(last=False)
        return validator


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; put what it refers to under $defs")
