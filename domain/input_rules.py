# intent_ref: domain.input-rules
"""Rules for what people type: names, descriptions, labels, and how they describe a module."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from domain.json_values import Limits, pointer, text_fault, value_faults
from domain.module import Action, RetryPolicy, Transport
from domain.refusals import Fault
from domain.security import REFERENCE_HINT, quoted, secret_in
from domain.step_policies import ATTEMPTS_MAX, BACKOFF_MAX, TIMEOUT_SECONDS_MAX
from domain.values import is_module_name

NAME_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 10_000
LABELS_MAX = 64
LABEL_KEY_CHARS_MAX = 63
LABEL_VALUE_CHARS_MAX = 256
ACTIONS_MAX = 200
URL_CHARS_MAX = 2_000
CONCURRENCY_MAX = 100_000
RATE_MAX = 1_000_000
RATE_SECONDS_MIN = 0.1
_LABEL_KEY = re.compile(r"[A-Za-z0-9._/-]{1,63}")
_ACTION_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SECRET_REFERENCE = re.compile(
    r"secret://(?:[a-z][a-z0-9-]{0,30}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", re.ASCII
)  # as modules/secrets/references.py reads it
_SCHEMA_LIMITS = Limits(values_max=5_000, definition_bytes_max=262_144)


def name_faults(name: str, place: str = "/name") -> list[Fault]:
    """What is wrong with a name: 1 to 200 printable characters, no blanks around it."""
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        rule = f"1 to {NAME_CHARS_MAX} printable characters without blanks around them"
        return [Fault(place, f"This must be {rule}.", "invalid-name")]
    return _secret_fault(name, place)


def text_faults(text: str | None, place: str, chars_max: int) -> list[Fault]:
    """What is wrong with free text."""
    if text is None:
        return []
    if len(text) > chars_max:
        return [Fault(place, f"This has {len(text):,} characters, of at most {chars_max:,}.", "oversize")]
    if (fault := text_fault(text)) is not None:
        return [Fault(place, f"This text has {fault}.", "unstorable")]
    return _secret_fault(text, place)


def labels_faults(labels: dict[str, str] | None) -> list[Fault]:
    """What is wrong with labels, each by its own pointer."""
    if not labels:
        return []
    if len(labels) > LABELS_MAX:
        return [Fault("/labels", f"There are {len(labels):,} labels, of at most {LABELS_MAX}.", "too-many-labels")]
    faults: list[Fault] = []
    for key, value in labels.items():
        place = pointer(("/labels", key))
        if not _LABEL_KEY.fullmatch(key):
            rule = f"1 to {LABEL_KEY_CHARS_MAX} of A-Z a-z 0-9 . _ / -"
            faults.append(Fault(place, f"A label's key must be {rule}", "invalid-label"))
        faults += text_faults(value, place, LABEL_VALUE_CHARS_MAX)
    return faults


def intent_faults(name: str | None, description: str | None, labels: dict[str, str] | None) -> list[Fault]:
    """What is wrong around an intent's definition; None is not judged."""
    faults = name_faults(name) if name is not None else []
    return [*faults, *text_faults(description, "/description", DESCRIPTION_CHARS_MAX), *labels_faults(labels)]


def module_faults(name: str, actions: Sequence[Action], transport: Transport) -> list[Fault]:
    """What is wrong with a module's description. Whether its schemas are JSON Schemas is for the caller to judge."""
    faults: list[Fault] = []
    if not is_module_name(name):
        rule = "lower-case letters, digits and inner dots, hyphens and underscores, 1 to 100 characters"
        faults.append(Fault("/name", f"A module's name must be {rule}.", "invalid-name"))
    if not actions or len(actions) > ACTIONS_MAX:
        faults.append(Fault("/actions", f"A module must have 1 to {ACTIONS_MAX} actions.", "invalid-actions"))
    names: set[str] = set()
    for index, action in enumerate(actions[:ACTIONS_MAX]):
        faults += _action_faults(action, f"/actions/{index}")
        if action.name in names:
            detail = f"The action {quoted(action.name)} is there twice."
            faults.append(Fault(f"/actions/{index}/name", detail, "duplicate-action"))
        names.add(action.name)
    return faults + _transport_faults(transport)


def _action_faults(action: Action, place: str) -> list[Fault]:
    faults: list[Fault] = []
    if not _ACTION_NAME.fullmatch(action.name):
        faults.append(Fault(f"{place}/name", "An action's name must be 1 to 100 of A-Z a-z 0-9 . _ -", "invalid-name"))
    for key, schema in (("input_schema", action.input_schema), ("output_schema", action.output_schema)):
        if schema is not None:
            faults += value_faults(schema, f"{place}/{key}", _SCHEMA_LIMITS, look_for_secrets=False)
    if action.timeout_seconds is not None and not 0 < action.timeout_seconds <= TIMEOUT_SECONDS_MAX:
        faults.append(Fault(f"{place}/timeout", "A timeout must be above 0 and up to 86,400 seconds.", "invalid-duration"))
    if action.compensate is not None and not _ACTION_NAME.fullmatch(action.compensate):
        faults.append(Fault(f"{place}/compensate", "An action's name must be 1 to 100 of A-Z a-z 0-9 . _ -", "invalid-name"))
    faults += _metering_faults(action, place)
    if action.retry is not None and not _is_sound(action.retry):
        faults.append(Fault(f"{place}/retry", "This retry policy is out of bounds.", "invalid-retry"))
    return faults


def _metering_faults(action: Action, place: str) -> list[Fault]:
    faults: list[Fault] = []
    if action.concurrency is not None and not 1 <= action.concurrency <= CONCURRENCY_MAX:
        detail = f"This must be an integer from 1 to {CONCURRENCY_MAX:,}."
        faults.append(Fault(f"{place}/concurrency", detail, "invalid-number"))
    rate = action.rate
    if rate is not None and not (1 <= rate.max <= RATE_MAX and RATE_SECONDS_MIN <= rate.per_seconds <= TIMEOUT_SECONDS_MAX):
        detail = f"A rate is `max`, from 1 to {RATE_MAX:,}, and `per`, from {RATE_SECONDS_MIN} to 86,400 seconds."
        faults.append(Fault(f"{place}/rate", detail, "invalid-rate"))
    return faults


def _is_sound(retry: RetryPolicy) -> bool:
    return (
        1 <= retry.attempts_max <= ATTEMPTS_MAX
        and 0 < retry.initial_seconds <= retry.cap_seconds <= TIMEOUT_SECONDS_MAX
        and 1 <= retry.backoff <= BACKOFF_MAX
        and 0 <= retry.jitter <= 1
    )


def _transport_faults(transport: Transport) -> list[Fault]:
    if transport.kind == "pull":
        said = [key for key in ("url", "plugin", "secret") if getattr(transport, key) is not None]
        detail = "The workers of a `pull` module come for their work: nothing more is said about them here."
        return [Fault(f"/transport/{key}", detail, "unknown-key") for key in said]
    if transport.kind == "in-process":
        if not transport.plugin or not is_module_name(transport.plugin):
            return [Fault("/transport/plugin", "An in-process module names its plug-in.", "missing")]
        if transport.secret is not None:
            return [Fault("/transport/secret", "Only requests over HTTP are signed.", "invalid-secret")]
        return []
    if transport.secret is not None and not _SECRET_REFERENCE.fullmatch(transport.secret):
        rule = "a reference such as `secret://name` or `secret://provider/name`, never the secret itself"
        return [Fault("/transport/secret", f"This must be {rule}.", "invalid-secret")]
    url = transport.url
    if not url:
        return [Fault("/transport/url", "An HTTP module has a `url`.", "missing")]
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        rule = f"up to {URL_CHARS_MAX:,} printable ASCII characters without blanks"
        return [Fault("/transport/url", f"A URL is {rule}.", "invalid-url")]
    try:
        parts = urlsplit(url)
        is_web_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web_address = False
    if not is_web_address:
        return [Fault("/transport/url", "This must be an absolute `http://` or `https://` URL.", "invalid-url")]
    if "@" in parts.netloc:
        return [Fault("/transport/url", f"A URL must not hold a user's name or password. {REFERENCE_HINT}", "secret")]
    return _secret_fault(url, "/transport/url")


def _secret_fault(text: str, place: str) -> list[Fault]:
    kind = secret_in(text)
    return [Fault(place, f"This looks like {kind}. {REFERENCE_HINT}", "secret")] if kind is not None else []
