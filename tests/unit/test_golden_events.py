# intent_ref: tests.golden
"""Every version of every event that was ever written loads for ever; and the check that says so can fail."""

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from domain.execution import evolve
from domain.execution_events import ExecutionStarted
from event_store import codec
from tests.golden.check import golden_faults
from tests.golden.examples import EXAMPLES
from tests.golden.write import FOLDER, files_of, topic_of_file, write


def test_every_golden_file_loads_and_would_be_written_the_same_today() -> None:
    assert golden_faults(FOLDER) == []


def test_every_event_has_an_example_to_write_its_golden_file_from() -> None:
    assert {codec.topic_of(type(example)) for example in EXAMPLES} == set(codec.TOPICS)


def test_a_golden_file_that_exists_is_never_written_again(tmp_path: Path) -> None:
    (tmp_path / "tenant.registered.v1.json").write_bytes(b"as it was")
    written = write(tmp_path, EXAMPLES)
    assert len(written) == len(codec.TOPICS) - 1
    assert (tmp_path / "tenant.registered.v1.json").read_bytes() == b"as it was"
    assert write(tmp_path, EXAMPLES) == []


@dataclass(frozen=True)
class Painted:
    """An event of a made-up concept, as it was when its golden file was written."""

    colour: str
    coats: int


Speak = Callable[..., None]


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Speak:
    """Makes the codec know these classes and upcasters, and nothing else."""

    def known(topics: dict[str, type[Any]], upcasters: dict[str, tuple[str, codec.Upcaster]] | None = None) -> None:
        monkeypatch.setattr(codec, "TOPICS", topics)
        monkeypatch.setattr(codec, "UPCASTERS", upcasters or {})
        monkeypatch.setattr(codec, "_TOPIC_OF", {event_class: topic for topic, event_class in topics.items()})
        monkeypatch.setattr(codec, "_ADAPTERS", {topic: TypeAdapter(event_class) for topic, event_class in topics.items()})

    return known


def changed(*fields: tuple[str, Any] | tuple[str, Any, Any]) -> type[Any]:
    """`Painted` after somebody has been at it."""
    return make_dataclass("Painted", fields, frozen=True)


@pytest.fixture
def golden(tmp_path: Path, speak: Speak) -> Path:
    """A folder with the golden file of `Painted`."""
    speak({"wall.painted.v1": Painted})
    assert write(tmp_path, [Painted("red", 2)]) == ["wall.painted.v1.json"]  # type: ignore[list-item]
    assert golden_faults(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([("color", str), ("coats", int)], "cannot be read any more"),
        ([("colour", str), ("coats", dict)], "cannot be read any more"),
        ([("colour", str), ("coats", int), ("wall", str)], "cannot be read any more"),
        ([("colour", str), ("coats", int), ("wall", str, "north")], "would be written differently now"),
        ([("colour", str)], "would be written differently now"),
        ([("colour", str), ("coats", str)], "cannot be read any more"),
        ([("colour", str), ("coats", float)], "would be written differently now"),
        ([("coats", int), ("colour", str)], "would be written differently now"),
    ],
    ids=["renamed", "retyped", "added", "added with a default", "removed", "made text", "made a float", "reordered"],
)
def test_a_class_that_changes_under_its_topic_breaks_the_check(
    golden: Path, speak: Speak, fields: list[Any], sentence: str
) -> None:
    speak({"wall.painted.v1": changed(*fields)})
    [fault] = golden_faults(golden)
    assert "wall.painted.v1" in fault
    assert sentence in fault


def test_an_event_without_a_golden_file_breaks_the_check(golden: Path, speak: Speak) -> None:
    speak({"wall.painted.v1": Painted, "wall.cleaned.v1": changed(("soap", str))})
    assert golden_faults(golden) == ["wall.cleaned.v1 has no golden file: run `python -m tests.golden.write`."]


def test_an_upcaster_without_a_golden_file_breaks_the_check(golden: Path, speak: Speak) -> None:
    speak({"wall.painted.v1": Painted}, {"wall.painted.v0": ("wall.painted.v1", dict)})
    assert golden_faults(golden) == ["wall.painted.v0 has no golden file: run `python -m tests.golden.write`."]


def test_a_topic_that_is_forgotten_breaks_the_check(golden: Path, speak: Speak) -> None:
    speak({})
    [fault] = golden_faults(golden)
    assert "nothing reads it any more" in fault


def test_a_new_version_with_an_upcaster_mends_the_check(golden: Path, speak: Speak) -> None:
    newer = changed(("colour", str), ("coats", int), ("wall", str))
    speak({"wall.painted.v2": newer}, {"wall.painted.v1": ("wall.painted.v2", lambda old: {**old, "wall": "unknown"})})
    assert write(golden, [newer("blue", 1, "north")]) == ["wall.painted.v2.json"]
    assert golden_faults(golden) == []


def test_an_upcaster_that_fails_on_what_was_written_breaks_the_check(golden: Path, speak: Speak) -> None:
    newer = changed(("colour", str), ("layers", int))
    speak({"wall.painted.v2": newer}, {"wall.painted.v1": ("wall.painted.v2", _misspelt)})
    write(golden, [newer("blue", 1)])
    [fault] = golden_faults(golden)
    assert fault.startswith("wall.painted.v1 cannot be read any more")


def _misspelt(old: dict[str, Any]) -> dict[str, Any]:
    return {"colour": old["colour"], "layers": old["coat"]}


def test_golden_files_are_payloads_and_nothing_else() -> None:
    found = sorted(topic_of_file(path) for path in FOLDER.iterdir() if path.suffix == ".json")
    assert {topic for topic, _ in found} == set(codec.TOPICS) | set(codec.UPCASTERS)
    for topic in codec.TOPICS:
        assert [shape for name, shape in found if name == topic] == list(range(1, len(files_of(FOLDER, topic)) + 1))


def test_an_event_that_has_grown_an_optional_field_keeps_a_file_of_both_shapes(golden: Path, speak: Speak) -> None:
    bigger = changed(("colour", str), ("coats", int), ("wall", str, "north"))
    speak({"wall.painted.v1": bigger})
    [fault] = golden_faults(golden)
    assert "run `python -m tests.golden.write`" in fault
    assert write(golden, [bigger("blue", 1, "south")]) == ["wall.painted.v1.2.json"]
    assert golden_faults(golden) == []
    assert write(golden, [bigger("green", 3, "east")]) == []
    speak({"wall.painted.v1": changed(("colour", str), ("coats", int), ("side", str, "north"))})
    assert len(golden_faults(golden)) == 1


def test_execution_events_from_before_they_could_say_more_still_load() -> None:
    started = codec.decode("execution.started.v1", (FOLDER / "execution.started.v1.json").read_bytes())
    assert isinstance(started, ExecutionStarted)
    assert started.options is None
    assert all(step.control is None and step.retry.jitter == 0.0 for step in started.steps)
    assert evolve(None, started).options.priority == 3
