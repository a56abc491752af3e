# intent_ref: projections.search
"""Text as search sees it: lower-case words, without positions. Documents and queries are cut the same way, here and not in
PostgreSQL, so that the words do not depend on a database's locale, and because it is three times as fast.

Words are kept as they are, not stemmed: definitions are mostly names, in any language.
"""

import hashlib
import re
import unicodedata
from typing import Any

import orjson

TEXT_CHARACTERS_MAX = 100_000
"""Enough for 15,000 words, and certain to stay below the 1 MiB that PostgreSQL allows a tsvector."""
QUERY_CHARACTERS_MAX, QUERY_WORDS_MAX = 1_000, 50
WORD_CHARACTERS_MAX = 100
_TERM_BYTES_MAX = 1_000

_BLANK = {code: " " for code in range(128) if not chr(code).isalnum()}
_WORD = re.compile(r"[^\W_]+")
_NOISE = re.compile(r'"(?:action|target|steps|id|depends_on)":')
_ESCAPE = re.compile(r"\\[bfnrt\"\\/]")
_QUERY_PART = re.compile(r'-?"[^"]*"?|[^\s"]+')


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        found = text.translate(_BLANK).lower().split()
    else:
        found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word[:WORD_CHARACTERS_MAX] for word in found] if len(text) > WORD_CHARACTERS_MAX else found


def words_of(*parts: Any) -> set[str]:
    """The words of texts and JSON values; those of the beginning where there is too much."""
    raw = orjson.dumps(parts).decode()
    if "\\" in raw:
        raw = _ESCAPE.sub(" ", raw)
    return set(words(_NOISE.sub(" ", raw[:TEXT_CHARACTERS_MAX])))


def tsquery(text: str) -> str | None:
    """A user's query as PostgreSQL takes it: all of the words, `OR` between alternatives, `-` before what must not occur, words
    in quotes together. None where it has no word.
    """
    alternatives: list[list[str]] = [[]]
    for part in _QUERY_PART.findall(text[:QUERY_CHARACTERS_MAX])[:QUERY_WORDS_MAX]:
        if part == "OR":
            alternatives.append([])
            continue
        group = " & ".join(f"'{word}'" for word in words(part))
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
