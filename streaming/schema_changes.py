# intent_ref: streaming.event-types
"""Whether a JSON Schema still keeps what an earlier one promised, in both directions.

Those who know the earlier schema must be able to take in everything written under the new one, and those who know the new
one everything in the log. So a new property may come when it is optional, and an enumeration may grow (consumers are told to
pass over values they do not know); nothing may go, be of another type, or become required or optional. Notes for readers
(titles, descriptions, examples, defaults) may change at will. Only what the generator writes is understood; any other keyword
has to stay as it is.
"""

from typing import Any, Final

_NOTES: Final = frozenset({"$schema", "$id", "$comment", "$defs", "title", "description", "examples", "default", "deprecated"})
_JUDGED: Final = frozenset({"$ref", "properties", "required", "items", "prefixItems", "additionalProperties", "anyOf", "enum"})


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A sentence for every promise of `old` that `new` breaks; each begins with the place, as a JSON pointer."""
    return _Comparison(old, new).compare(old, new, "")


class _Comparison:
    """The two documents, whose `$defs` references lead into, and the pairs under comparison: types may hold themselves."""

    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._old, self._new = old, new
        self._under_way: set[tuple[str, str]] = set()

    def compare(self, old: Any, new: Any, place: str) -> list[str]:
        if not isinstance(old, dict) or not isinstance(new, dict):
            return [] if old == new else [f"{place or '/'}: {_brief(old)} has become {_brief(new)}."]
        references = (old.get("$ref", ""), new.get("$ref", ""))
        if any(references):
            if references in self._under_way:
                return []
            self._under_way.add(references)
            try:
                return self.compare(_resolved(self._old, old), _resolved(self._new, new), place)
            finally:
                self._under_way.discard(references)
        faults = self._keywords(old, new, place)
        faults += self._properties(old, new, place)
        for key in ("items", "additionalProperties"):
            if key in old or key in new:
                faults += self.compare(old.get(key, True), new.get(key, True), f"{place}/{key}")
        faults += self._sequences(old, new, place)
        return faults + self._options(old, new, place)

    def _keywords(self, old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
        faults = []
        for key in sorted((old.keys() | new.keys()) - _NOTES - _JUDGED):
            # A constant is an enumeration of one, which may grow as well.
            if key == "const" and key in old and old["const"] in new.get("enum", ()):
                continue
            if old.get(key) != new.get(key) or (key in old) != (key in new):
                faults.append(f"{place or '/'}: {key} was {_brief(old.get(key))} and would be {_brief(new.get(key))}.")
        if "const" not in old and ("enum" in old) != ("enum" in new):
            faults.append(f"{place or '/'}: values were {_brief(old.get('enum'))} and would be {_brief(new.get('enum'))}.")
        elif gone := [value for value in old.get("enum", ()) if value not in new.get("enum", ())]:
            faults.append(f"{place or '/'}: {_brief(gone)} would be no value any more.")
        return faults

    def _properties(self, old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
        faults = []
        for name, schema in before.items():
            here = f"{place}/{name}"
            if name not in after:
                faults.append(f"{here}: it would be gone.")
                continue
            faults += self.compare(schema, after[name], here)
            if name in needed_before and name not in needed_after:
                faults.append(f"{here}: it was always there, and would be optional.")
        faults += [f"{place}/{name}: it would be required, and what was written before lacks it."
                   for name in sorted(needed_after - needed_before)]  # fmt: skip
        return faults

    def _sequences(self, old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
        before, after = old.get("prefixItems"), new.get("prefixItems")
        if before is None and after is None:
            return []
        if before is None or after is None or len(before) != len(after):
            return [f"{place or '/'}: the places of the array were {_brief(before)} and would be {_brief(after)}."]
        pairs = enumerate(zip(before, after, strict=True))
        return [fault for index, (one, other) in pairs for fault in self.compare(one, other, f"{place}/{index}")]

    def _options(self, old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
        """Each option of old must have its like in the new, and the other way round: a union neither grows nor shrinks."""
        before, after = old.get("anyOf"), new.get("anyOf")
        if before is None and after is None:
            return []
        if before is None or after is None:
            return [f"{place or '/'}: its types were {_brief(before or old)} and would be {_brief(after or new)}."]
        lost = [one for one in before if all(self.compare(one, other, place) for other in after)]
        added = [one for one in after if all(self.compare(other, one, place) for other in before)]
        return [
            *(f"{place or '/'}: {_brief(one)} would be no type of it any more." for one in lost),
            *(f"{place or '/'}: {_brief(one)} would be a new type of it." for one in added),
        ]


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Any = document
    for part in str(reference).removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"
