# intent_ref: domain.subscription-rules
"""Rules for what people type into a subscription, and what its patterns match."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from domain.input_rules import text_faults
from domain.json_values import pointer, text_fault
from domain.refusals import Fault
from domain.security import REFERENCE_HINT, secret_in
from domain.subscription import Terms

DESCRIPTION_CHARS_MAX = 2_000
HEADERS_MAX = 20
HEADER_VALUE_CHARS_MAX = 1_000
IN_FLIGHT_MAX = 100
PATTERNS_MAX = 50
PATTERN_CHARS_MAX = 200
STARS_MAX = 5
URL_CHARS_MAX = 2_000
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[!-~](?:[ !-~]*[!-~])?")
_RESERVED = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "upgrade", "te", "trailer",
     "expect", "keep-alive", "proxy-authorization", "proxy-connection", "accept", "accept-encoding", "user-agent",
     "forwarded", "via", "traceparent", "tracestate", "date"}
)  # fmt: skip
_RESERVED_PREFIXES = ("webhook-", "quantum-", "x-forwarded-", "sec-", "proxy-")
_VERSION = re.compile(r"\.v[0-9]+$")


def terms_faults(terms: Terms) -> list[Fault]:
    """What is wrong with a subscription's terms, each by its pointer. Headers have `header_faults`."""
    faults = url_faults(terms.url)
    faults += _pattern_faults(terms.types, "/types", types=True)
    faults += _pattern_faults(terms.subjects, "/subjects", types=False)
    faults += text_faults(terms.description, "/description", DESCRIPTION_CHARS_MAX)
    if not 1 <= terms.max_in_flight <= IN_FLIGHT_MAX:
        faults.append(Fault("/max_in_flight", f"This must be from 1 to {IN_FLIGHT_MAX}.", "invalid"))
    return faults


def url_faults(url: str) -> list[Fault]:
    """What is wrong with the address of a receiver. Where its name leads to is judged at each delivery."""
    if not 1 <= len(url) <= URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        rule = f"1 to {URL_CHARS_MAX:,} printable ASCII characters without blanks or backslashes"
        return [Fault("/url", f"A URL is {rule}.", "invalid-url")]
    try:
        parts = urlsplit(url)
        is_web_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web_address = False
    if not is_web_address:
        return [Fault("/url", "This must be an absolute `https://` or `http://` URL.", "invalid-url")]
    if "@" in parts.netloc:
        return [Fault("/url", "A URL must not hold a user's name or password: deliveries are signed instead.", "secret")]
    if "#" in url:
        return [Fault("/url", "A URL with a fragment cannot be delivered to: leave out `#` and what follows.", "invalid-url")]
    kind = secret_in(url)
    return [Fault("/url", f"This looks like {kind}. {REFERENCE_HINT}", "secret")] if kind is not None else []


def patterns_faults(types: tuple[str, ...], subjects: tuple[str, ...]) -> list[Fault]:
    """What is wrong with patterns of types and of subjects."""
    return _pattern_faults(types, "/types", types=True) + _pattern_faults(subjects, "/subjects", types=False)


def _pattern_faults(patterns: tuple[str, ...], place: str, *, types: bool) -> list[Fault]:
    least = 1 if types else 0
    if not least <= len(patterns) <= PATTERNS_MAX:
        return [Fault(place, f"There must be {least} to {PATTERNS_MAX} patterns.", "invalid-patterns")]
    faults = []
    for index, pattern in enumerate(patterns):
        here = f"{place}/{index}"
        if not 1 <= len(pattern) <= PATTERN_CHARS_MAX or not pattern.isprintable() or text_fault(pattern) is not None:
            faults.append(Fault(here, f"A pattern has 1 to {PATTERN_CHARS_MAX} printable characters.", "invalid-pattern"))
        elif pattern.count("*") > STARS_MAX:
            faults.append(Fault(here, f"A pattern has at most {STARS_MAX} `*`.", "invalid-pattern"))
        elif types and pattern != "*" and not pattern.startswith("quantum."):
            faults.append(Fault(here, "A type's pattern is `*` or begins with `quantum.`.", "invalid-pattern"))
    return faults


def header_faults(headers: Mapping[str, str]) -> list[Fault]:
    """What is wrong with headers that are to go with every delivery. They may be credentials: nobody sees their values again."""
    if len(headers) > HEADERS_MAX:
        return [Fault("/headers", f"There are {len(headers):,} headers, of at most {HEADERS_MAX}.", "too-many-headers")]
    faults = []
    seen: set[str] = set()
    for name, value in headers.items():
        here, lower = pointer(("/headers", name)), name.lower()
        if not _HEADER_NAME.fullmatch(name):
            faults.append(Fault(here, "This is no name of a header.", "invalid-header"))
        elif lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
            faults.append(Fault(here, "This header is set by the platform or by HTTP itself.", "reserved-header"))
        elif lower in seen:
            faults.append(Fault(here, "This header is there twice: names do not differ by case.", "invalid-header"))
        elif len(value) > HEADER_VALUE_CHARS_MAX or not _HEADER_VALUE.fullmatch(value):
            rule = f"1 to {HEADER_VALUE_CHARS_MAX:,} printable ASCII characters without blanks around them"
            faults.append(Fault(here, f"A header's value has {rule}.", "invalid-header"))
        seen.add(lower)
    return faults


def wants_type(terms: Terms, event_type: str) -> bool:
    """True where one of the type patterns matches `event_type`, with its version (`….v1`) or without."""
    return type_matches(terms.types, event_type)


def type_matches(patterns: tuple[str, ...], event_type: str) -> bool:
    """True where one of the patterns matches `event_type`, with its version (`….v1`) or without."""
    plain = _VERSION.sub("", event_type)
    return any(matches(pattern, event_type) or matches(pattern, plain) for pattern in patterns)


def wants_subject(terms: Terms, subject: str) -> bool:
    """True where there are no subject patterns, or one of them matches."""
    return not terms.subjects or any(matches(pattern, subject) for pattern in terms.subjects)


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern`, in which `*` stands for any text, is `text` from end to end."""
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
