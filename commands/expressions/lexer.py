# intent_ref: commands.expressions
"""From characters to the tokens of CEL (github.com/google/cel-spec, doc/langdef.md, "Syntax").

Left out, since JSON has nothing to show for them: literals of bytes and unsigned integers.
"""

import re
from typing import Any, Literal

from commands.expressions.faults import TOKENS_MAX, SyntaxFault
from domain.immutable import immutable

Kind = Literal["name", "value", "mark", "end"]
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

_TOKEN = re.compile(
    r"""
    (?P<blank>(?:[ \t\r\n\f]|//[^\n]*)+)
  | (?P<number>0[xX][0-9a-fA-F]+[uU]? | (?:[0-9]+\.[0-9]+|\.[0-9]+)(?:[eE][+-]?[0-9]+)? | [0-9]+[eE][+-]?[0-9]+ | [0-9]+[uU]?)
  | (?P<raw>[bB]?[rR][bB]?(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"\n\r]*"|'[^'\n\r]*'))
  | (?P<text>[bB]?(?:\"\"\"(?:[^\\]|\\[\s\S])*?\"\"\"|'''(?:[^\\]|\\[\s\S])*?'''|"(?:[^"\\\n\r]|\\.)*"|'(?:[^'\\\n\r]|\\.)*'))
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<mark>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|([\s\S]))"
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_OPENING, _CLOSING = "([{", ")]}"


@immutable
class Token:
    """A token; `at` is its first character, `text` as it is written, `value` what a literal stands for."""

    kind: Kind
    text: str
    at: int
    value: Any = None


def tokens_of(text: str, start: int = 0, *, in_template: bool = False) -> tuple[list[Token], int]:
    """The tokens from `start` on, an `end` token last, and where reading stopped.

    In a template reading stops behind the `}}` that closes it, which is the first outside of every bracket and text. Raises
    `SyntaxFault`, places counted from `start`.
    """
    tokens: list[Token] = []
    depth, at = 0, start
    while at < len(text):
        if in_template and depth == 0 and text.startswith("}}", at):
            return [*tokens, Token("end", "", at - start)], at + 2
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at, start)
        if match.lastgroup != "blank":
            token = _token(match, at - start)
            depth += (token.text in _OPENING) - (token.text in _CLOSING) if token.kind == "mark" else 0
            tokens.append(token)
            if len(tokens) > TOKENS_MAX:
                raise SyntaxFault(f"The expression has more than {TOKENS_MAX:,} parts.", token.at)
        at = match.end()
    if in_template:
        raise SyntaxFault("`${{` is not closed by `}}`.", 0)
    return [*tokens, Token("end", "", at - start)], at


def _unreadable(text: str, at: int, start: int) -> SyntaxFault:
    if text[at] in "\"'":
        return SyntaxFault("A text is not closed.", at - start)
    shown = text[at] if text[at].isprintable() else f"U+{ord(text[at]):04X}"
    return SyntaxFault(f"An expression cannot have {shown!r} here.", at - start)


def _token(match: re.Match[str], at: int) -> Token:
    text, kind = match.group(), match.lastgroup
    if kind == "name":
        return Token("name", text, at)
    if kind == "mark":
        return Token("mark", text, at)
    if kind == "number":
        return Token("value", text, at, _number(text, at))
    quote = min(index for index in (text.find('"'), text.find("'")) if index >= 0)
    prefix, body = text[:quote].lower(), text[quote:]
    if "b" in prefix:
        raise SyntaxFault("There are no literals of bytes here: JSON has no bytes.", at)
    body = body[3:-3] if body.startswith(('"""', "'''")) else body[1:-1]
    return Token("value", text, at, body if kind == "raw" else _unescaped(body, at))


def _number(text: str, at: int) -> int | float:
    if text[-1] in "uU":
        raise SyntaxFault("There are no unsigned integers here: leave the `u` out.", at)
    if text.startswith(("0x", "0X")):
        number = int(text[2:40], 16)
    elif text.isdigit():
        number = int(text[:40])
    else:
        real = float(text)
        if real in (float("inf"), float("-inf")):
            raise SyntaxFault("This number is too large.", at)
        return real
    # -9223372036854775808 is written as a minus before a number that is one too large by itself.
    if number > INTEGER_MAX + 1:
        raise SyntaxFault("This integer does not fit into 64 bits.", at)
    return number


def _unescaped(body: str, at: int) -> str:
    def stands_for(match: re.Match[str]) -> str:
        plain, byte, short, long, octal, wrong = match.groups()
        if wrong is not None:
            raise SyntaxFault(f"There is no escape {match.group()[:2]!r} in a text; a backslash is written twice.", at)
        if plain is not None:
            return _ESCAPED.get(plain, plain)
        code = int(octal, 8) if octal else int(byte or short or long, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise SyntaxFault(f"{match.group()} is no character.", at)
        return chr(code)

    return _ESCAPE.sub(stands_for, body) if "\\" in body else body
