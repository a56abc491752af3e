# intent_ref: tests.codec
"""Events become bytes and come back the same, in whatever version they were written."""

import types
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from domain.intent import IntentDeprecated
from domain.values import IntentId
from event_store import codec

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
_BIGINTS = st.integers(-(2**53), 2**53)
_JSON = st.recursive(
    st.none() | st.booleans() | _BIGINTS | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    Any: _JSON,
    str: st.text(),
    int: _BIGINTS,
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    type(None): st.none(),
    datetime: st.datetimes(timezones=st.just(UTC)),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value a field of this type may hold."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if supertype := getattr(hint, "__supertype__", None):
        return values_of(supertype)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in fields(hint)})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return st.one_of([values_of(argument) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    raise NotImplementedError(f"no values for {hint!r}: say here how a field of this type is filled")


@pytest.mark.parametrize("topic", sorted(codec.TOPICS))
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same_event(topic: str, data: st.DataObject) -> None:
    event = data.draw(values_of(codec.TOPICS[topic]))
    written = codec.encode(event)
    assert written[0] == topic
    again = codec.decode(*written)
    assert again == event
    assert type(again) is type(event)
    assert codec.encode(again) == written, "and to the same bytes, which audits hash"


def test_every_event_of_the_domain_has_a_topic_of_its_own() -> None:
    events = set(get_args(codec.DomainEvent))
    assert set(codec.TOPICS.values()) == events
    assert len(codec.TOPICS) == len(events)


@pytest.mark.parametrize("topic", sorted(codec.TOPICS))
def test_a_topic_names_its_concept_what_happened_and_a_version(topic: str) -> None:
    concept, happened, version = topic.split(".")
    assert codec.TOPICS[topic].__module__.startswith(f"domain.{concept}")
    assert happened.isidentifier()
    assert version.removeprefix("v").isdecimal()


def test_times_are_written_in_utc_and_read_back_with_their_zone() -> None:
    _, payload = codec.encode(IntentDeprecated(IntentId("i"), AT))
    assert payload == b'{"intent_id":"i","at":"2026-11-21T08:00:00Z"}'
    event = codec.decode("intent.deprecated.v1", payload)
    assert isinstance(event, IntentDeprecated)
    assert event.at.utcoffset() is not None


def test_a_topic_of_a_newer_release_is_named_with_the_way_out() -> None:
    with pytest.raises(codec.UnknownTopic, match=r"'intent\.moved\.v1'.*Upgrade"):
        codec.decode("intent.moved.v1", b"{}")


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"null", b"[]", b"{}", b'{"intent_id": 7, "at": "2026-11-21T08:00:00Z"}', b'{"intent_id": "i", "at": "soon"}',
     b'{"intent_id": "\xff", "at": "2026-11-21T08:00:00Z"}', b"[" * 10_000],
)  # fmt: skip
def test_bytes_that_are_not_what_the_topic_promises_are_refused(payload: bytes) -> None:
    with pytest.raises(codec.UndecodableEvent, match=r"intent\.deprecated\.v1") as refused:
        codec.decode("intent.deprecated.v1", payload)
    assert refused.value.topic == "intent.deprecated.v1"


@dataclass(frozen=True)
class Measured:
    """A made-up event whose shape has changed twice: `{"cm": 250}`, `{"metres": 2.5}`, and now with who measured."""

    metres: float
    by: str


@pytest.fixture
def two_upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "TOPICS", {"wall.measured.v3": Measured})
    monkeypatch.setattr(codec, "_TOPIC_OF", {Measured: "wall.measured.v3"})
    monkeypatch.setattr(codec, "_ADAPTERS", {"wall.measured.v3": TypeAdapter(Measured)})
    monkeypatch.setattr(
        codec,
        "UPCASTERS",
        {
            "wall.measured.v1": ("wall.measured.v2", lambda old: {"metres": old["cm"] / 100}),
            "wall.measured.v2": ("wall.measured.v3", lambda old: {**old, "by": "unknown"}),
        },
    )


@pytest.mark.usefixtures("two_upcasters")
@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("wall.measured.v1", b'{"cm": 250}'),
        ("wall.measured.v2", b'{"metres": 2.5}'),
        ("wall.measured.v3", b'{"metres": 2.5, "by": "unknown"}'),
    ],
)
def test_old_versions_are_upcast_one_after_the_other_to_the_class_of_today(topic: str, payload: bytes) -> None:
    event: Any = codec.decode(topic, payload)
    assert event == Measured(2.5, "unknown")
    assert codec.encode(event)[0] == "wall.measured.v3", "what is written is always of today's version"


@pytest.mark.usefixtures("two_upcasters")
@pytest.mark.parametrize(
    "payload",
    [b"", b"7", b"null", b"[]", b"{}", b'{"cm": null}', b'{"cm": "many"}', b'{"cm": [1]}', b'{"cm": 1', b"[" * 10_000],
)
def test_old_bytes_an_upcaster_cannot_use_are_refused_like_any_others(payload: bytes) -> None:
    with pytest.raises(codec.UndecodableEvent, match=r"wall\.measured\.v1"):
        codec.decode("wall.measured.v1", payload)


@pytest.mark.usefixtures("two_upcasters")
def test_an_upcast_to_a_version_nobody_knows_is_an_unknown_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec.UPCASTERS, "wall.measured.v2", ("wall.measured.v4", lambda old: old))
    with pytest.raises(codec.UnknownTopic, match="v4"):
        codec.decode("wall.measured.v1", b'{"cm": 250}')


@pytest.mark.usefixtures("two_upcasters")
def test_upcasters_do_not_change_what_they_are_given_on_the_way() -> None:
    assert codec.decode("wall.measured.v1", b'{"cm": 250}') == codec.decode("wall.measured.v1", b'{"cm": 250}')


def test_every_upcaster_leads_to_a_topic_of_today() -> None:
    for start in codec.UPCASTERS:
        topic, seen = start, set()
        while topic in codec.UPCASTERS:
            assert topic not in seen, f"the upcasters of {start} go round in circles"
            seen.add(topic)
            topic, _ = codec.UPCASTERS[topic]
        assert topic in codec.TOPICS


def test_no_topic_is_both_current_and_upcast() -> None:
    assert not set(codec.TOPICS) & set(codec.UPCASTERS)
