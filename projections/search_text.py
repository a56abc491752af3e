# intent_ref: projections.search
"""Text as search sees it: lower-case words, without positions. Documents and queries are cut the same way, here and not in
PostgreSQL, so that the words do not depend on a database's locale, and because it is three times as fast.

Words are kept as they are, not stemmed: definitions are mostly names, in any language.
"""

import hashlib
import re
import unicodedata

import orjson

TEXT_BYTES_MAX = 200_000
"""Enough for 30,000 words, and certain to stay below the 1 MiB that PostgreSQL allows a tsvector."""
QUERY_CHARACTERS_MAX, QUERY_WORDS_MAX = 1_000, 50
WORD_CHARACTERS_MAX = 100
_TERM_BYTES_MAX = 1_000

_PLAIN = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else ord(" ") for code in range(256))
"""Every ASCII byte as its lower case, or as a blank."""
_WORD = re.compile(r"[^\W_]+")
_KEYS = (b'"action":', b'"target":', b'"steps":', b'"id":', b'"depends_on":')
"""Keys that every definition has, so that finding them would find everything."""
_ESCAPE = re.compile(rb"\\[bfnrt\"\\/]")
_QUERY_PART = re.compile(r'-?"[^"]*"?|[^\s"]+')


def words(text: bytes) -> list[str]:
    """The words of a text in UTF-8, in order. Whatever the rest of the text, an ASCII word comes out the same."""
    if text.isascii():
        found = text.translate(_PLAIN).decode().split()
    else:
        found = _WORD.findall(unicodedata.normalize("NFKC", text.decode(errors="ignore")).casefold())
    if found and max(map(len, found)) > WORD_CHARACTERS_MAX:
        return [word[:WORD_CHARACTERS_MAX] for word in found]
    return found


def words_of(*parts: object) -> set[str]:
    """The words of texts and JSON values; those of the beginning where there is too much."""
    raw = orjson.dumps(parts)
    if b"\\" in raw:
        raw = _ESCAPE.sub(b" ", raw)
    raw = raw[:TEXT_BYTES_MAX]
    for key in _KEYS:
        raw = raw.replace(key, b" ")
    return set(words(raw))


def tsquery(text: str) -> str | None:
    """A user's query as PostgreSQL takes it: all of the words, `OR` between alternatives, `-` before what must not occur, words
    in quotes together. None where it has no word.
    """
    alternatives: list[list[str]] = [[]]
    for part in _QUERY_PART.findall(text[:QUERY_CHARACTERS_MAX])[:QUERY_WORDS_MAX]:
        if part == "OR":
            alternatives.append([])
            continue
        group = " & ".join(f"'{word}'" for word in words(part.encode(errors="ignore")))
        if group:
            alternatives[-1].append(f"!({group})" if part.startswith("-") else f"({group})")
    found = [" & ".join(groups) for groups in alternatives if groups]
    return " | ".join(f"({groups})" for groups in found) or None


def tenant_term(tenant_id: str) -> str:
    """The index term of a tenant. Like all terms that are not words, it begins with what no word begins with."""
    return f"={tenant_id}"


def name_term(name: str) -> str:
    """The index term of an intent's exact name."""
    return _bounded(f"@{name}")


def label_term(key: str, value: str | None) -> str:
    """The index term of a label, or of its key with any value."""
    return _bounded(f"#{key}" if value is None else f"#{key}={value}")


def _bounded(term: str) -> str:
    if len(term) * 4 > _TERM_BYTES_MAX or not term.isprintable():
        return term[0] + hashlib.sha256(term.encode(errors="surrogatepass")).hexdigest()
    return term
