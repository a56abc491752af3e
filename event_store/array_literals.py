# intent_ref: event-store.array-literals
"""Columns as the text of PostgreSQL arrays, for parameters such as `$1::text::bigint[]`.

The driver looks at each element of an array it is given, for an array in it; that takes longer than for PostgreSQL to read the
text.
"""

from collections.abc import Iterable, Sequence

_BETWEEN = "\x1f"


def plain_array(values: Iterable[object]) -> str:
    """Values whose text needs no quotes: numbers, truth values, ids in hexadecimal."""
    return "{" + ",".join(map(str, values)) + "}"


def text_array(texts: Sequence[str]) -> str:
    """Texts, whatever is in them. They are escaped all at once, which is what makes it quick."""
    together = _BETWEEN.join(texts)
    if together.count(_BETWEEN) != len(texts) - 1:
        return "{" + ",".join('"' + _escaped(text) + '"' for text in texts) + "}"
    if "\\" in together or '"' in together:
        together = _escaped(together)
    return '{"' + together.replace(_BETWEEN, '","') + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
