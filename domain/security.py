# intent_ref: domain.security
"""Secrets in clear text: how they are recognised, and how text is quoted without repeating one.

Every pattern takes time linear in the text: each starts where its own alphabet cannot reach back to (a lookbehind), and repeats
are bounded or possessive. Tell a new pattern from digests, UUIDs and image names by a test.
"""

import fnmatch
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

REFERENCE_HINT = "Keep it out and refer to it instead, as `secret://name` or `${{ secrets.name }}`."
QUOTED_CHARS_MAX = 80
_SECRET_CHARS_MIN = 12

_KINDS = {
    "aws": "an AWS access key",
    "pem": "a private key",
    "jwt": "a JSON Web Token",
    "github": "a GitHub token",
    "gitlab": "a GitLab token",
    "slack": "a Slack token",
    "google": "a Google API key",
    "vendor": "an API key",
    "entra": "an Azure client secret",
    "sas": "an Azure shared access signature",
    "bearer": "a bearer token",
}
_SECRET_VALUE = re.compile(
    r"""
      (?P<aws>(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9]))
    | (?P<pem>-----BEGIN\ (?:[A-Z0-9]{1,16}\ ){0,4}PRIVATE\ KEY)
    | (?P<jwt>(?<![A-Za-z0-9_.-])eyJ[A-Za-z0-9_-]{10,}+\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10})
    | (?P<github>(?<![A-Za-z0-9_])(?:gh[oprsu]_[A-Za-z0-9]{30}|github_pat_[A-Za-z0-9_]{22}))
    | (?P<gitlab>(?<![A-Za-z0-9_-])glpat-[A-Za-z0-9_-]{20})
    | (?P<slack>(?<![A-Za-z0-9-])xox[abeoprs]-[A-Za-z0-9-]{10}|hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/)
    | (?P<google>(?<![A-Za-z0-9_-])AIza[A-Za-z0-9_-]{35})
    | (?P<vendor>(?<![A-Za-z0-9_-])(?:[rs]k_live_[A-Za-z0-9]{16}|sk-(?:ant-|proj-)[A-Za-z0-9_-]{20}|npm_[A-Za-z0-9]{36}))
    | (?P<entra>(?<![A-Za-z0-9_~.-])[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31})
    | (?P<sas>[?&]sig=[A-Za-z0-9%+/]{20})
    | (?P<bearer>(?<![A-Za-z0-9])[Bb]earer\ {1,3}(?=[A-Za-z._~+/-]*+[0-9])[A-Za-z0-9._~+/-]{20})
    """,
    re.VERBOSE | re.ASCII,
)
# What every text with a secret has in it; most texts end here.
_MARK = re.compile(r"://|=|A[KS]IA|-----B|eyJ|gh[oprsu]_|github_|glpat|xox|AIza|k_live|sk-|npm_|Q~|earer |hooks\.slack")
_URL_WITH_PASSWORD = re.compile(r"://[^\s/?#@:]{0,256}:(?P<secret>[^\s/?#@]{1,512})@")
_PASSWORD_IN_TEXT = re.compile(
    r"(?<![A-Za-z0-9_])(?P<name>password|passwd|pwd|accountkey|sharedaccesskey|client_?secret|secret_?key|api_?key)"
    r"\ {0,3}=\ {0,3}(?P<secret>[^\s;,&=\"'][^\s;,&\"']{2,})",
    re.IGNORECASE | re.ASCII,
)

_REFERENCE = re.compile(
    r"\s*(?:(?:secret|vault|keyvault|env)://.+|\$\{[^{}]+\}|\$\([^()]+\)|\{\{[^{}]+\}\}|@Microsoft\.KeyVault\(.+\))\s*", re.DOTALL
)
_EXPRESSION = re.compile(r"\$\{\{(?=\s*+[^\s{}])[^{}]*+\}\}")
_EMBEDDED = re.compile(r"\$\{secret://[A-Za-z0-9._/-]{1,200}\}")
_TYPE_NAMES = frozenset({"string", "str", "number", "integer", "boolean", "object", "array", "null", "required", "optional"})

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS = frozenset(
    {"password", "passwd", "pwd", "passphrase", "secret", "token", "apikey", "secretkey", "privatekey", "accesskey", "accountkey",
     "connectionstring", "passcode", "authtoken", "accesstoken", "clientsecret", "credential"}
)  # fmt: skip
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key"), ("account", "key"), ("encryption", "key"),
     ("signing", "key"), ("master", "key"), ("shared", "key"), ("connection", "string"), ("conn", "string"), ("db", "pass"),
     ("user", "pass"), ("root", "pass"), ("admin", "pass")}
)  # fmt: skip
_HARMLESS_TOKENS = frozenset(
    {"page", "next", "continuation", "pagination", "cursor", "sync", "resume", "cancellation", "idempotency",
     "pad", "eos", "bos", "stop", "unk", "mask", "sep", "cls"}
)  # fmt: skip
_FILLERS = frozenset({"value", "text", "plaintext", "plain"})


def names_a_secret(key: str) -> bool:
    """True for keys whose values are secrets: `password`, `dbPassword`, `API_KEY`; not for `token_count`, `secret_name`."""
    words = [word.lower() for word in _WORD.findall(key)]
    while words and (words[-1] in _FILLERS or words[-1].isdigit()):
        words.pop()
    if not words:
        return False
    if words[-1] == "token" and len(words) > 1 and words[-2] in _HARMLESS_TOKENS:
        return False
    return words[-1] in _SECRET_WORDS or tuple(words[-2:]) in _SECRET_PAIRS


def is_reference(text: str) -> bool:
    """True where the text points to a secret, or has a place for one: `secret://a`, `${secret://a}`, `${{ … }}`, `${NAME}`."""
    return _REFERENCE.fullmatch(text) is not None or (_EMBEDDED.search(text) or _EXPRESSION.search(text)) is not None


def is_clear_text(value: str) -> bool:
    """True where a string under a secret's key is the secret itself: not empty, no reference, no name of a type."""
    return not (not value.strip() or is_reference(value) or value.lower() in _TYPE_NAMES)


def may_hold_secret(text: str) -> bool:
    """False for texts that `secret_in` finds nothing in, at a glance; also for several texts in one, on lines of their own."""
    return len(text) >= _SECRET_CHARS_MIN and _MARK.search(text) is not None


def secret_in(text: str) -> str | None:
    """What kind of secret the text holds, in words, by its looks; None where it holds none that is known."""
    if not may_hold_secret(text):
        return None
    found = _SECRET_VALUE.search(text)
    if found is not None:
        return _KINDS[str(found.lastgroup)]
    if "://" in text:
        for url in _URL_WITH_PASSWORD.finditer(text):
            if not _is_placeholder(url["secret"]):
                return "a URL with a password"
    if "=" in text:
        for pair in _PASSWORD_IN_TEXT.finditer(text):
            # `PWD=` is also the shell's working directory; among `a=b;c=d` it is a password.
            if not _is_placeholder(pair["secret"]) and (pair["name"].lower() != "pwd" or ";" in text):
                return "a connection string or option with a password"
    return None


def _is_placeholder(text: str) -> bool:
    return text[0] in "$<{%*:?@" or text.startswith("secret://") or not text.strip("xX.")


def quoted(text: str) -> str:
    """The text in quotes for a message: shortened, unprintable characters escaped, a secret left out."""
    if secret_in(text) is not None:
        return "(left out: it looks like a secret)"
    return repr(text if len(text) <= QUOTED_CHARS_MAX else text[:QUOTED_CHARS_MAX] + "…")


def forbidding_pattern(target: str, patterns: tuple[str, ...]) -> str | None:
    """The first pattern that forbids the target; case, width and outer spaces make no difference."""
    if not patterns:
        return None
    folded = _folded(target)
    return next((pattern for pattern, matches in _compiled(patterns) if matches(folded)), None)


@lru_cache(maxsize=16)
def _compiled(patterns: tuple[str, ...]) -> list[tuple[str, Callable[[str], object]]]:
    return [(pattern, re.compile(fnmatch.translate(_folded(pattern))).match) for pattern in patterns]


def _folded(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).strip().casefold()
