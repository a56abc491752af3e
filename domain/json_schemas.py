# intent_ref: domain.json-schemas
"""How much work a JSON Schema can make, found out before it is asked to do any.

References can double at each step, so that a schema of one kilobyte takes hours to hold against the smallest value. What a
schema comes to with every reference written out bounds the work for one place of a value.
"""

from typing import Any
from urllib.parse import unquote

SUBSCHEMAS_MAX = 1_000
_DEPTH_MAX = 200
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_MAPS_OF_NAMES = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies", "dependentRequired"}
)
_DATA = frozenset({"enum", "const", "default", "examples"})


class UnboundedSchema(ValueError):
    """The schema can make more work than anybody's should; the sentence says why."""


def expanded_size(schema: Any) -> int:
    """How many subschemas (at least) there are with every reference written out; raises `UnboundedSchema` above 1,000."""
    size = _Expansion(schema).of(schema, is_map=False, depth=0)
    if size > SUBSCHEMAS_MAX:
        raise UnboundedSchema(f"With its references written out it has over {SUBSCHEMAS_MAX:,} parts: make it simpler.")
    return size


class _Expansion:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._sizes: dict[tuple[int, bool], int] = {}
        self._open: set[tuple[int, bool]] = set()
        self._anchors: dict[str, Any] | None = None

    def of(self, node: Any, *, is_map: bool, depth: int) -> int:
        if not isinstance(node, dict | list):
            return 1 if isinstance(node, bool) else 0
        key = (id(node), is_map)
        if (known := self._sizes.get(key)) is not None:
            return known
        if key in self._open:
            raise UnboundedSchema("A reference leads back to where it came from: schemas here may not contain themselves.")
        if depth > _DEPTH_MAX:
            raise UnboundedSchema(f"It nests deeper than {_DEPTH_MAX} levels, references included.")
        self._open.add(key)
        size = self._of_list(node, depth) if isinstance(node, list) else self._of_object(node, is_map=is_map, depth=depth)
        self._open.discard(key)
        self._sizes[key] = size
        return size

    def _of_list(self, node: list[Any], depth: int) -> int:
        return sum(self.of(one, is_map=False, depth=depth + 1) for one in node)

    def _of_object(self, node: dict[str, Any], *, is_map: bool, depth: int) -> int:
        size = 1
        for key, value in node.items():
            if is_map:
                size += self.of(value, is_map=False, depth=depth + 1)
            elif key in _REFERENCES and isinstance(value, str):
                size += self.of(self._target(key, value), is_map=False, depth=depth + 1)
            elif key in ("$id", "id") and isinstance(value, str) and node is not self._root and not value.startswith("#"):
                raise UnboundedSchema(f"Only the whole schema may have an `{key}`.")
            elif key not in _DATA:
                size += self.of(value, is_map=key in _MAPS_OF_NAMES, depth=depth + 1)
        return size

    def _target(self, key: str, reference: str) -> Any:
        if key != "$ref":
            raise UnboundedSchema(f"`{key}` is not supported: use `$ref`.")
        node: Any = self._root
        if reference == "#":
            return node
        if not reference.startswith("#/"):
            return self._anchored(unquote(reference.removeprefix("#")))
        for part in unquote(reference[2:]).split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isascii() and name.isdigit() and int(name[:6]) < len(node):
                node = node[int(name[:6])]
            else:
                raise UnboundedSchema(f"There is nothing at the reference {reference[:100]!r}.")
        return node

    def _anchored(self, name: str) -> Any:
        if self._anchors is None:
            self._anchors = {}
            left: list[Any] = [self._root]
            while left:
                node = left.pop()
                if isinstance(node, dict):
                    self._note(node)
                    left.extend(node.values())
                elif isinstance(node, list):
                    left.extend(node)
        if name not in self._anchors:
            raise UnboundedSchema(f"There is no anchor {name[:100]!r} in the schema.")
        return self._anchors[name]

    def _note(self, node: dict[str, Any]) -> None:
        assert self._anchors is not None
        for key in ("$anchor", "$dynamicAnchor", "$id", "id"):
            value = node.get(key)
            if isinstance(value, str) and (key in ("$anchor", "$dynamicAnchor") or value.startswith("#")):
                name = value.removeprefix("#")
                if self._anchors.setdefault(name, node) is not node:
                    raise UnboundedSchema(f"The anchor {name[:100]!r} is there twice.")
