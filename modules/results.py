# intent_ref: modules.results
"""What a module may give back: a JSON value of 256 KiB at most that PostgreSQL can hold."""

from typing import Any

import orjson

from modules.contract import ModuleError

RESULT_BYTES_MAX = 262_144
_MESSAGE_CHARS_MAX = 2_000


def storable(result: Any, bytes_max: int = RESULT_BYTES_MAX) -> Any:
    """The result as JSON holds it; raises `ModuleError` `result-too-large` or `result-invalid`, neither worth a retry."""
    if result is None:
        return None
    try:
        data = orjson.dumps(result)
    except TypeError as fault:
        raise ModuleError("result-invalid", f"The module's result is not JSON: {fault}", retryable=False) from fault
    if len(data) > bytes_max:
        size = f"The module's result has {len(data):,} bytes; {bytes_max:,} are allowed."
        message = f"{size} Store it elsewhere and return a link."
        raise ModuleError("result-too-large", message, retryable=False)
    plain = orjson.loads(data)
    if b"\\u0000" in data and _holds_nul(plain):
        raise ModuleError("result-invalid", "The module's result holds a NUL character, which cannot be stored.", retryable=False)
    return plain


def storable_error(error: ModuleError) -> dict[str, Any]:
    """The error as it is recorded: details that cannot be stored are left out, and a message too long is cut."""
    code = str(error.code).replace("\0", "\ufffd")[:100]
    message = str(error.message).encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:_MESSAGE_CHARS_MAX]
    document = {"code": code, "message": message}
    if not error.details:
        return document
    try:
        return {**document, "details": storable(error.details)}
    except ModuleError as fault:
        return {**document, "details": {"left_out": fault.code}}


def _holds_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case list():
            return any(_holds_nul(item) for item in value)
        case dict():
            return any("\0" in key or _holds_nul(item) for key, item in value.items())
        case _:
            return False
