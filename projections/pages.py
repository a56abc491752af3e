# intent_ref: projections.pages
"""Pages of a list, newest first, and the cursor that leads from one to the next.

A cursor holds the position of the last row given, so rows that come in meanwhile neither repeat nor hide any. It is bound to the
tenant, the list and the filters by a fingerprint. It is no secret: row-level security decides what a tenant sees.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from domain.immutable import immutable

LIMIT_MAX = 200
FIRST = (1 << 62) - 1
"""Before the first page: above every position."""
_PREFIX = b"c1"
_DIGEST_BYTES = 10


class InvalidCursor(ValueError):
    """This cursor does not continue this list. Pass `next_cursor` back as it was, with the same filters, or leave it out."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


@immutable
class Page:
    """Documents as JSON bytes, and the cursor of the next page where there is one."""

    items: list[bytes]
    next_cursor: str | None


@immutable
class Listing:
    """One list with its filters: what a cursor is bound to."""

    kind: str
    tenant_id: str
    filters: tuple[Any, ...] = ()

    def before(self, cursor: str | None) -> int:
        """The position below which the page begins; raises `InvalidCursor`."""
        if cursor is None:
            return FIRST
        if not 8 <= len(cursor) <= 80 or not cursor.isascii():
            raise InvalidCursor
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidCursor from None
        if len(raw) != len(_PREFIX) + 8 + _DIGEST_BYTES or not raw.startswith(_PREFIX) or raw[10:] != self._digest():
            raise InvalidCursor
        position = int.from_bytes(raw[2:10], "big")
        if position > FIRST:
            raise InvalidCursor
        return position

    def page(self, rows: Sequence[Any], limit: int) -> Page:
        """The page of rows (place, document) of which one more than `limit` was asked for.

        A row without a document is passed over: its event was set aside where the documents are kept.
        """
        shown = rows[:limit]
        more = len(rows) > limit
        return Page([row[1] for row in shown if row[1] is not None], self._cursor(shown[-1][0]) if more and shown else None)

    def _cursor(self, position: int) -> str:
        raw = _PREFIX + position.to_bytes(8, "big") + self._digest()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def _digest(self) -> bytes:
        bound = orjson.dumps((self.kind, self.tenant_id, self.filters))
        return hashlib.blake2b(bound, digest_size=_DIGEST_BYTES).digest()


def storable(*texts: str | None) -> bool:
    """False for text that no row can hold (NUL, lone surrogates): nothing is found then, and nothing is asked."""
    for text in texts:
        if text is None:
            continue
        if "\0" in text:
            return False
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def bounded(limit: int) -> int:
    """A page's size within 1 and 200."""
    return max(1, min(limit, LIMIT_MAX))
