# intent_ref: tests.golden
"""Keeps a golden file of every event that has none yet: `python -m tests.golden.write`, at the root of the tree.

The file holds the payload exactly as the log would. One that exists is never written again, whatever its event looks like now:
it stands for what is in people's logs.
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
        path = folder / f"{topic}.json"
        if not path.exists():
            with path.open("xb") as file:
                file.write(payload)
            written.append(path.name)
    return written


def main() -> None:
    """Writes, and says what was written and what still lacks an example."""
    for name in write(FOLDER, EXAMPLES):
        print(f"wrote tests/golden/{name}")
    exampled = {codec.topic_of(type(example)) for example in EXAMPLES}
    if missing := sorted(set(codec.TOPICS) - exampled):
        sys.exit(f"No example of {', '.join(missing)}: add one to tests/golden/examples.py.")


if __name__ == "__main__":
    main()
