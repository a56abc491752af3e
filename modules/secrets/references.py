# intent_ref: modules.secrets
"""How a secret is referred to: `secret://name` or `secret://provider/name` as a whole string, inside another `${secret://name}`.

Names are lower-case letters, digits and inner `.`, `-`, `_`; they are read without regard to case, since some stores know none.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from domain.immutable import immutable
from modules.contract import ModuleError

SCHEME: Final = "secret://"
REFERENCES_MAX: Final = 100
"""References to different secrets in the parameters of one step, at most."""
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
_PATH: Final = rf"(?:(?P<provider>[a-z][a-z0-9-]{{0,30}})/)?(?P<name>{_NAME})"
_WHOLE: Final = re.compile(rf"\s*{SCHEME}{_PATH}\s*", re.ASCII)
_INNER: Final = re.compile(r"\$\{\s*" + SCHEME + r"(?P<path>[^{}]*)\}")
_INNER_PATH: Final = re.compile(rf"{_PATH}\s*", re.ASCII)
_IS_NAME: Final = re.compile(_NAME, re.ASCII)


@immutable
class Reference:
    """Which secret is meant; without a `provider`, the first that has it."""

    provider: str | None
    name: str

    def __str__(self) -> str:
        return SCHEME + (f"{self.provider}/" if self.provider else "") + self.name


def is_secret_name(text: str) -> bool:
    """True for names such as `db-password`: 1 to 100 letters, digits and inner dots, hyphens, underscores."""
    return _IS_NAME.fullmatch(text) is not None


def references_in(value: Any) -> list[Reference]:
    """Every reference in a JSON value, each once, in order. Raises `ModuleError` `secret-reference-invalid`."""
    found: dict[Reference, None] = {}
    for text in _strings(value):
        if SCHEME in text:
            replaced(text, lambda reference: found.setdefault(reference, None) or "")
    if len(found) > REFERENCES_MAX:
        message = f"The parameters refer to {len(found)} secrets, of at most {REFERENCES_MAX}."
        raise ModuleError("secret-reference-invalid", message, retryable=False)
    return list(found)


def parse_reference(text: str) -> Reference | None:
    """The reference that `text` is as a whole; None where it is none. Raises `ModuleError` for one that makes no sense."""
    if not text.lstrip().startswith(SCHEME):
        return None
    return _reference(_WHOLE.fullmatch(text), text.strip())


def replaced(text: str, value_of: Callable[[Reference], str]) -> str:
    """`text` with the value in the place of each reference. Raises `ModuleError` for a reference that makes no sense."""
    whole = parse_reference(text)
    if whole is not None:
        return value_of(whole)
    return _INNER.sub(lambda found: value_of(_reference(_INNER_PATH.fullmatch(found["path"]), found[0])), text)


def _reference(match: re.Match[str] | None, text: str) -> Reference:
    if match is None:
        way = "Write `secret://name` or `secret://provider/name`; inside a longer text, `${secret://name}`."
        raise ModuleError("secret-reference-invalid", f"{text[:120]!r} is not a reference to a secret. {way}", retryable=False)
    return Reference(match["provider"], match["name"].lower())


def _strings(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left.extend(reversed(one.values()))
        elif isinstance(one, list):
            left.extend(reversed(one))
