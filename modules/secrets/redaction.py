# intent_ref: modules.secrets
"""Keeps the values of used secrets out of what is stored: results, errors, log lines, also where they come back encoded."""

import base64
import json
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import quote, quote_plus

CHARS_MIN: Final = 4
"""A shorter value cannot be told from the text around it, so no such secret is handed out."""
_LINE_CHARS_MIN: Final = 16
_CUT_CHARS_MIN: Final = 6


class Redaction:
    """What must not be repeated. It never shows its values; an empty one changes nothing."""

    __slots__ = ("_forms", "_values")

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """`secrets`: value -> the name that stands in its place."""
        forms: dict[str, str] = {}
        for value, name in secrets.items():
            for form in _forms(value):
                forms.setdefault(form, f"[secret:{name}]")
        self._forms = sorted(forms.items(), key=lambda entry: len(entry[0]), reverse=True)
        self._values = [(value, f"[secret:{name}]") for value, name in secrets.items() if len(value) > _CUT_CHARS_MIN]

    def __repr__(self) -> str:
        return f"Redaction({len(self._values)})"

    def __bool__(self) -> bool:
        return bool(self._forms)

    def with_values(self, secrets: Mapping[str, str]) -> "Redaction":
        """This one, and other values."""
        more, both = Redaction(secrets), Redaction({})
        both._forms = sorted(dict([*more._forms, *self._forms]).items(), key=lambda entry: len(entry[0]), reverse=True)
        both._values = [*self._values, *more._values]
        return both

    def text(self, text: str) -> str:
        """`text` without any of the values, nor with the beginning of one at its end, where it was cut."""
        for form, placeholder in self._forms:
            if form in text:
                text = text.replace(form, placeholder)
        for value, placeholder in self._values:
            at = text.find(value[:_CUT_CHARS_MIN], max(0, len(text) - len(value)))
            while at >= 0:
                if value.startswith(text[at:]):
                    text = text[:at] + placeholder
                    break
                at = text.find(value[:_CUT_CHARS_MIN], at + 1)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value without any of the values: in strings, in keys, and in numbers that spell one."""
        if not self._forms:
            return value
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                spelled = str(value)
                clean = self.text(spelled)
                return value if clean == spelled else clean
            case list() | tuple():
                return [self.value(one) for one in value]
            case dict():
                return {self.value(key): self.value(one) for key, one in value.items()}
            case _:
                return value

    def in_force(self) -> AbstractContextManager[None]:
        """While it lasts, `hide_in_log` keeps the values out of the log lines of this task and of those it starts."""
        return self._hiding() if self._forms else _NO_HIDING

    @contextmanager
    def _hiding(self) -> Iterator[None]:
        token = _in_force.set((*_in_force.get(), self))
        try:
            yield
        finally:
            _in_force.reset(token)


NOTHING: Final = Redaction({})
_NO_HIDING: Final = nullcontext()
_in_force: ContextVar[tuple[Redaction, ...]] = ContextVar("redactions_in_force", default=())


def redact(value: Any, used: Redaction) -> Any:
    """`used.value(value)`: a JSON value as it may be stored."""
    return used.value(value)


def hide_in_log(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor, to stand right before the renderer: no value of a secret in use gets into a line."""
    for redaction in _in_force.get():
        for key, value in line.items():
            line[key] = redaction.value(value if isinstance(value, str | int | float | list | dict | None) else str(value))
    return line


def _forms(value: str) -> Iterator[str]:
    """The value, and how it reads once it has been put into JSON, a URL, base64 or hexadecimal digits."""
    yield value
    if len(value.strip()) >= CHARS_MIN:
        yield value.strip()
    if "\n" in value:
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= _LINE_CHARS_MIN)
    data = value.encode("utf-8", "surrogatepass")
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1])
    yield from (quote(data, safe=""), quote(data), quote_plus(data), quote(data, safe="").lower())
    yield from (data.hex(), data.hex().upper())
    for offset in range(3):
        yield from _base64_inside(data, offset)


def _base64_inside(data: bytes, offset: int) -> Iterator[str]:
    """What every base64 text has in it that encodes `data` after `offset` (modulo 3) other bytes, whatever comes after."""
    encoded = base64.b64encode(b"\0" * offset + data).decode("ascii")
    inside = encoded[(0, 2, 3)[offset] : (offset + len(data)) * 8 // 6]
    if len(inside) >= _CUT_CHARS_MIN:
        yield from (inside, inside.translate(str.maketrans("+/", "-_")))
