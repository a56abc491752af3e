# intent_ref: commands.kept-inputs
"""Inputs of an execution that are too large for the log: judged as they are, then kept beside it, with claims in their place.

What an execution is given may hold claims already (a child gets a result of its parent's that is one). The schema is held against
what they stand for; recorded are the claims. So nothing is stored twice, and nothing slips past a schema as a claim.
"""

from typing import Any, Final

import orjson

from commands.execution_commands import StartExecution
from commands.execution_start import Start, fitting_inputs
from commands.kept_values import ValueStore
from domain.values import TenantId

_MARK: Final = b'"$artifact"'


async def recorded_inputs(
    start: Start, command: StartExecution, store: ValueStore | None, tenant_id: TenantId
) -> dict[str, Any]:  # fmt: skip
    """The inputs as the log gets them, once they are found to fit. Nothing is stored before that. Raises as `ValueStore`."""
    recorded = await judged_inputs(start, command, store, tenant_id)
    if store is None or not recorded or len(orjson.dumps(recorded)) <= store.inline_bytes_max:
        return recorded
    kept: dict[str, Any] = await store.kept(tenant_id, recorded, store.inline_bytes_max)
    return kept


async def judged_inputs(
    start: Start, command: StartExecution, store: ValueStore | None, tenant_id: TenantId
) -> dict[str, Any]:  # fmt: skip
    """The inputs with the schema's defaults, found to fit by what the claims among them stand for. Stores nothing."""
    given = command.inputs
    if store is None or start.definition.inputs_schema is None or _MARK not in orjson.dumps(given):
        return fitting_inputs(start, given)
    real = await store.redeemed(tenant_id, given)
    return _with_claims(given, real, fitting_inputs(start, real))


def _with_claims(given: dict[str, Any], real: dict[str, Any], fitting: dict[str, Any]) -> dict[str, Any]:
    """What fits, as it was given wherever the schema's defaults have added nothing to it."""
    if fitting is real:
        return given
    return {
        name: given[name] if name in real and name in given and value is real[name] else value for name, value in fitting.items()
    }
