# intent_ref: domain.json-values
"""JSON that the log can hold: what every value from outside is held to, whatever it means."""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from domain.immutable import immutable
from domain.refusals import Fault
from domain.security import REFERENCE_HINT, is_clear_text, may_hold_secret, names_a_secret, secret_in

FAULTS_LISTED_MAX = 100
KEY_CHARS_MAX = 256
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1

Place = str | tuple[Any, str | int]
"""Where a value is: a pointer, or (the place of what holds it, its key or index). Rendered only for a fault."""


@immutable
class Limits:
    """How much a definition, or any value from outside, may hold. `definition_bytes_max` counts keys and strings as UTF-8."""

    steps_max: int = 500
    depth_max: int = 64
    value_bytes_max: int = 65_536
    definition_bytes_max: int = 1_048_576
    values_max: int = 50_000


class Faults:
    """Faults as they are found: the first ones kept, all counted."""

    def __init__(self) -> None:
        self.listed: list[Fault] = []
        self.count = 0

    def add(self, place: Place, detail: str, code: str) -> None:
        """Notes one fault."""
        self.count += 1
        if len(self.listed) < FAULTS_LISTED_MAX:
            self.listed.append(Fault(pointer(place), detail, code))


def together(stages: Iterable[Faults], prefix: str) -> list[Fault]:
    """The faults of all stages in their order, at most `FAULTS_LISTED_MAX`, then one that says how many more there are."""
    stages = tuple(stages)
    if not any(stage.count for stage in stages):
        return []
    listed = [fault for stage in stages for fault in stage.listed][:FAULTS_LISTED_MAX]
    more = sum(stage.count for stage in stages) - len(listed)
    if more:
        listed.append(Fault(prefix, f"There are {more} more faults like these.", "more-faults"))
    return listed


def pointer(place: Place) -> str:
    """The RFC 6901 pointer to a place. A key that looks like a secret, or is overlong, is not repeated in it."""
    tokens: list[str] = []
    while isinstance(place, tuple):
        place, key = place
        tokens.append(_token(key))
    return place + "".join(f"/{token}" for token in reversed(tokens))


def _token(key: str | int) -> str:
    if isinstance(key, int):
        return str(key)
    if secret_in(key) is not None:
        return "(left out)"
    if len(key) > KEY_CHARS_MAX:
        key = key[:KEY_CHARS_MAX] + "…"
    return key.encode("utf-8", "replace").decode().replace("~", "~0").replace("/", "~1")


class ValueCheck:
    """One walk over a JSON value, without recursion: what the log cannot hold, what is too much, and secrets in clear text."""

    def __init__(self, limits: Limits, *, look_for_secrets: bool = True) -> None:
        self.limits, self.look_for_secrets = limits, look_for_secrets
        self.shape, self.security = Faults(), Faults()
        self._values = self._bytes = 0

    def walk(self, root: Any, place: Place) -> bool:
        """Checks `root` and all in it; False where there is too much in it to come to an end.

        A value nested too deeply is named and not entered.
        """
        return self._is_plainly_sound(root) or self._walk(root, place)

    def _is_plainly_sound(self, root: Any) -> bool:
        """True where a look from afar shows that nothing in `root` can be at fault, as with most that is ever sent; False says
        nothing. Layer by layer, and all texts as one.
        """
        limits = self.limits
        layer, texts, keys, values = [root], list[str](), set[Any](), 0
        for depth in range(limits.depth_max + 1):
            below: list[Any] = []
            may_hold = depth < limits.depth_max
            for value in layer:
                kind = type(value)
                if kind is str:
                    texts.append(value)
                elif kind is dict and may_hold:
                    keys.update(value)
                    below.extend(value.values())
                elif kind is list and may_hold:
                    below.extend(value)
                elif kind is int:
                    if not INTEGER_MIN <= value <= INTEGER_MAX:
                        return False
                elif not (value is None or kind is bool or (kind is float and math.isfinite(value))):
                    return False
            values += len(below)
            if values > limits.values_max:
                return False
            layer = below
            if not layer:
                break
        text = "\n".join(texts)
        return (
            not layer
            and len(text) + values * KEY_CHARS_MAX <= limits.definition_bytes_max
            and len(text) <= limits.value_bytes_max
            and text.isascii()
            and "\0" not in text
            and not (self.look_for_secrets and may_hold_secret(text))
            and _are_sound(keys)
        )

    def _walk(self, root: Any, place: Place) -> bool:
        limits = self.limits
        stack: list[tuple[Any, Place, int]] = [(root, place, 1)]
        while stack and self._bytes <= limits.definition_bytes_max:
            value, here, depth = stack.pop()
            if isinstance(value, dict):
                items: Iterable[tuple[Any, Any]] = value.items()
            elif isinstance(value, list):
                items = enumerate(value)
            else:
                self._scalar(value, here)
                continue
            if depth > limits.depth_max:
                self.shape.add(here, f"This is nested deeper than {limits.depth_max} levels.", "too-deep")
                continue
            self._values += len(value)
            if self._values > limits.values_max:
                self.shape.add(place, f"There are more than {limits.values_max:,} values in this.", "too-many-values")
                return False
            nested: list[tuple[Any, Place, int]] = []
            in_object = isinstance(value, dict)
            for key, child in items:
                names_secret = in_object and self._key(key, here)
                if isinstance(child, str):
                    self._text(child, (here, key), names_secret)
                elif isinstance(child, dict | list):
                    nested.append((child, (here, key), depth + 1))
                else:
                    self._scalar(child, (here, key))
            if nested:
                nested.reverse()
                stack += nested
        if self._bytes > limits.definition_bytes_max:
            self.shape.add(place, f"The texts in this have more than {limits.definition_bytes_max:,} bytes.", "oversize")
            return False
        return True

    def _key(self, key: Any, here: Place) -> bool:
        """Checks a key, and says whether a text under it would be a secret."""
        if not isinstance(key, str):
            self.shape.add(here, "A key of this object is not a string.", "type")
            return False
        self._bytes += len(key)
        if len(key) > KEY_CHARS_MAX:
            self.shape.add(here, f"A key of this object has more than {KEY_CHARS_MAX} characters.", "oversize")
            return False
        judged = _judge_key(key)
        if judged.fault is not None:
            self.shape.add(here, f"A key of this object has {judged.fault}.", "unstorable")
        elif judged.secret is not None and self.look_for_secrets:
            self.security.add(here, f"A key of this object looks like {judged.secret}. {REFERENCE_HINT}", "secret")
        return judged.names_a_secret

    def _scalar(self, value: Any, place: Place) -> None:
        if isinstance(value, str):
            self._text(value, place, False)
        elif value is None or isinstance(value, bool):
            pass
        elif isinstance(value, int):
            if not INTEGER_MIN <= value <= INTEGER_MAX:
                self.shape.add(place, "This integer does not fit into 64 bits. Send it as a string.", "unstorable")
        elif isinstance(value, float):
            if not math.isfinite(value):
                self.shape.add(place, "This number is not finite.", "unstorable")
        else:
            self.shape.add(place, "This is not a JSON value.", "type")

    def _text(self, text: str, place: Place, names_secret: bool) -> None:
        is_ascii = text.isascii()
        if (not is_ascii or "\0" in text) and (fault := text_fault(text)) is not None:
            self.shape.add(place, f"This text has {fault}.", "unstorable")
            return
        size = len(text) if is_ascii else len(text.encode())
        self._bytes += size
        if size > self.limits.value_bytes_max:
            self.security.add(place, f"This text has {size:,} bytes, of at most {self.limits.value_bytes_max:,}.", "oversize")
        if not self.look_for_secrets:
            return
        if names_secret and is_clear_text(text):
            self.security.add(place, f"This is a secret in clear text, by its key. {REFERENCE_HINT}", "secret")
        elif (kind := secret_in(text)) is not None:
            self.security.add(place, f"This looks like {kind}. {REFERENCE_HINT}", "secret")


@immutable
class _JudgedKey:
    fault: str | None
    secret: str | None
    names_a_secret: bool
    is_sound: bool


@lru_cache(maxsize=4096)
def _judge_key(key: str) -> _JudgedKey:
    """Keys repeat from definition to definition, so each is judged once."""
    fault, secret, names = text_fault(key), secret_in(key), names_a_secret(key)
    return _JudgedKey(fault, secret, names, is_sound=fault is None and secret is None and not names)


def _are_sound(keys: Iterable[Any]) -> bool:
    for key in keys:
        if not isinstance(key, str) or len(key) > KEY_CHARS_MAX:
            return False
        if not _judge_key(key).is_sound:
            return False
    return True


def text_fault(text: str) -> str | None:
    """What PostgreSQL or UTF-8 cannot hold of a text, in words."""
    if "\0" in text:
        return "a NUL character, which cannot be stored"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair, which cannot be stored"
    return None


def value_faults(value: Any, prefix: str, limits: Limits, *, look_for_secrets: bool) -> list[Fault]:
    """What is wrong with a JSON value as such."""
    check = ValueCheck(limits, look_for_secrets=look_for_secrets)
    check.walk(value, prefix)
    return together((check.shape, check.security), prefix)
