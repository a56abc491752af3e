# intent_ref: tests.golden
"""Keeps a golden file of every event that has none yet: `python -m tests.golden.write`, at the root of the tree.

The file holds the payload exactly as the log would. One that exists is never written again, whatever its event looks like now:
it stands for what is in people's logs. Where an event has grown optional fields within its version, a further file is written
beside it (`execution.started.v1.2.json`), for both shapes are in people's logs from then on.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from event_store import codec
from tests.golden.examples import EXAMPLES

FOLDER = Path(__file__).parent


def write(folder: Path, examples: Iterable[codec.DomainEvent]) -> list[str]:
    """Writes what is missing; the names of the new files."""
    written = []
    for example in examples:
        topic, payload = codec.encode(example)
        files = files_of(folder, topic)
        if not files:
            path = folder / f"{topic}.json"
        elif _has_grown(topic, files[-1].read_bytes()):
            path = folder / f"{topic}.{len(files) + 1}.json"
        else:
            continue
        with path.open("xb") as file:
            file.write(payload)
        written.append(path.name)
    return written


def files_of(folder: Path, topic: str) -> list[Path]:
    """The golden files of a topic: `<topic>.json`, then those of the shapes it has grown into, in their order."""
    found = {topic_of_file(path): path for path in folder.glob(f"{topic}*.json")}
    return [path for (name, _), path in sorted(found.items(), key=lambda one: one[0][1]) if name == topic]


def topic_of_file(path: Path) -> tuple[str, int]:
    """The topic of a golden file, and which of the topic's shapes it holds: 1 is the first."""
    name, _, number = path.stem.rpartition(".")
    return (name, int(number)) if number.isdigit() else (path.stem, 1)


def _has_grown(topic: str, payload: bytes) -> bool:
    """True where the class behind the topic would write more than `payload` has; false where it cannot read it at all."""
    try:
        return codec.encode(codec.decode(topic, payload))[1] != payload
    except (codec.UnknownTopic, codec.UndecodableEvent):
        return False


def main() -> None:
    """Writes, and says what was written and what still lacks an example."""
    for name in write(FOLDER, EXAMPLES):
        print(f"wrote tests/golden/{name}")
    exampled = {codec.topic_of(type(example)) for example in EXAMPLES}
    if missing := sorted(set(codec.TOPICS) - exampled):
        sys.exit(f"No example of {', '.join(missing)}: add one to tests/golden/examples.py.")


if __name__ == "__main__":
    main()
