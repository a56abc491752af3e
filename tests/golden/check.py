# intent_ref: tests.golden
"""Holds the codec against the golden files: what was ever written must load for ever."""

from pathlib import Path

from event_store import codec


def golden_faults(folder: Path) -> list[str]:
    """A sentence for every golden file that this release's codec does not do justice to."""
    files = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.json"))}
    known = set(codec.TOPICS) | set(codec.UPCASTERS)
    faults = [f"{topic} has no golden file: run `python -m tests.golden.write`." for topic in sorted(known - set(files))]
    for topic, payload in files.items():
        if topic not in known:
            faults.append(f"{topic} was written once, and nothing reads it any more: bring it back, or add an upcaster.")
            continue
        try:
            event = codec.decode(topic, payload)
            again = codec.encode(event)
        except (codec.UnknownTopic, codec.UndecodableEvent, KeyError, TypeError) as fault:
            faults.append(f"{topic} cannot be read any more: {fault}")
            continue
        if topic in codec.TOPICS and again != (topic, payload):
            faults.append(
                f"{topic} would be written differently now ({again[1].decode()}, and the log has {payload.decode()}): give the "
                "new shape the next version, and an upcaster from this one."
            )
        if codec.decode(*again) != event:
            faults.append(f"{topic} does not survive being written again.")
    return faults
