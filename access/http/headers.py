# intent_ref: access.headers
"""Headers that carry meaning: entity tags and preconditions (RFC 9110), idempotency keys, positions, the trace's parent."""

import hashlib
import re
from typing import Final
from uuid import UUID

from opentelemetry import trace
from starlette.requests import Request

from access.http.problems import Problem
from access.principal import Principal
from domain.immutable import immutable
from event_store.ids import derived_id, uuid7
from event_store.tokens import InvalidToken, decode_token, encode_token

POSITION: Final = "Quantum-Position"
MIN_POSITION: Final = "Quantum-Min-Position"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
_KEYS_NAMESPACE: Final = UUID("6d0f4c1e-5a2b-5c53-9a6e-0b8f5d7c2e91")
_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_VERSION: Final = re.compile(r"([1-9][0-9]{0,9})(?:-[a-z]+)?")
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_TAGS_MAX: Final = 64


@immutable
class CommandIdentity:
    """Which command a request is. With an `Idempotency-Key` both ids repeat with it; without, the command is new each time."""

    command_id: UUID
    request_hash: str | None


def command_identity(request: Request, tenant_id: str, principal: Principal, body: bytes) -> CommandIdentity:
    """The command's id and the hash that tells a repeat from another request under the same key. Raises `Problem`."""
    return identity_of(request, tenant_id, principal.subject, body)


def identity_of(request: Request, tenant_id: str, subject: str, body: bytes) -> CommandIdentity:
    """As `command_identity`, for whoever `subject` is. Raises `Problem`."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return CommandIdentity(uuid7(), None)
    key = keys[0]
    if len(keys) > 1 or not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise Problem("header-invalid", f"{IDEMPOTENCY_KEY} must be one value of 1 to 255 printable ASCII characters.")
    method, path = request.method, request.scope["path"]
    namespace = derived_id(_KEYS_NAMESPACE, "\0".join((tenant_id, subject, method, path)))
    digest = hashlib.sha256(b"\0".join((method.encode(), path.encode("utf-8", "replace"), body)))
    return CommandIdentity(derived_id(namespace, key), digest.hexdigest())


def entity_tag(version: int, status: str = "active") -> str:
    """The tag of an intent: its version, and its status where that is not `active`, since the status is not versioned."""
    return f'"{version}"' if status == "active" else f'"{version}-{status}"'


def expected_versions(request: Request) -> tuple[int, ...] | None:
    """The versions `If-Match` names; None for `*`, which any version matches.

    A weak tag never matches, nor does one that no version has; then the tuple may be empty. Raises `Problem` without the
    header (428) and when it makes no sense (400).
    """
    lines = request.headers.getlist("If-Match")
    if not lines:
        way_out = 'Send `If-Match` with the `ETag` of the version you have changed, such as "3", or `*` for whatever is there.'
        raise Problem("precondition-missing", way_out)
    tags = _tags("If-Match", ", ".join(lines))
    if tags is None:
        return None
    found = (_VERSION.fullmatch(tag) for is_weak, tag in tags if not is_weak)
    return tuple(int(match[1]) for match in found if match is not None)


def is_unchanged(request: Request, tag: str) -> bool:
    """True when `If-None-Match` names `tag` (weakly compared, as RFC 9110 wants it there). Raises `Problem`."""
    lines = request.headers.getlist("If-None-Match")
    if not lines:
        return False
    tags = _tags("If-None-Match", ", ".join(lines))
    return tags is None or any(opaque == tag.strip('"') for _, opaque in tags)


def _tags(name: str, value: str) -> list[tuple[bool, str]] | None:
    """(weak, opaque part) of each tag of a list; None for `*`."""
    value = value.strip(" \t,")
    if value == "*":
        return None
    tags: list[tuple[bool, str]] = []
    at = 0
    while at < len(value) and len(tags) < _TAGS_MAX:
        match = _ENTITY_TAG.match(value, at)
        if match is None:
            break
        tags.append((match[1] is not None, match[2]))
        at = match.end()
        if at < len(value) and value[at:].lstrip(" \t")[:1] != ",":
            break
        while at < len(value) and value[at] in " \t,":
            at += 1
    if at < len(value) or not tags:
        raise Problem("header-invalid", f'{name} must be `*` or a list of at most {_TAGS_MAX} entity tags such as "3".')
    return tags


def min_position(request: Request) -> int | None:
    """The position a read is to have seen, if the client says one. Raises `Problem`."""
    token = request.headers.get(MIN_POSITION)
    if token is None:
        return None
    try:
        return decode_token(token)
    except InvalidToken as fault:
        raise Problem("position-invalid", f"{MIN_POSITION}: {fault}") from fault


def position_header(position: int) -> str:
    """The value of `Quantum-Position`."""
    return encode_token(position)


def traceparent(request: Request) -> str | None:
    """The trace this request belongs to, in the form of W3C Trace Context: our own span, else the client's."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    given = request.headers.get("traceparent")
    if given is None or len(given) > 128 or _TRACEPARENT.fullmatch(given) is None:
        return None
    return given[:55]
