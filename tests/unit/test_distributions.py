# intent_ref: quantum.telemetry
"""Distributions as Prometheus reads them, and how many kinds of values there may be."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quantum import telemetry
from quantum.telemetry import Distribution


def counted(distribution: Distribution) -> dict[tuple[str, ...], dict[str, float]]:
    """By labels: what each bucket holds, and the count and the sum."""
    registry = CollectorRegistry()
    registry.register(distribution)
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", sample.name.rpartition("_")[2])
            found.setdefault(tuple(labels.values()), {})[bound] = sample.value
    return found


def test_each_kind_has_its_buckets_its_count_and_its_sum() -> None:
    distribution = Distribution("calls_seconds", "Calls", ("module", "outcome"))
    for seconds, outcome in ((0.002, "completed"), (0.3, "completed"), (60.0, "completed"), (0.002, 'odd "one"\n')):
        distribution.record(seconds, "http", outcome)
    found = counted(distribution)
    assert found.keys() == {("http", "completed"), ("http", 'odd "one"\n')}
    of_completed = found["http", "completed"]
    assert (of_completed["0.001"], of_completed["0.0025"], of_completed["0.5"], of_completed["+Inf"]) == (0, 1, 2, 3)
    assert (of_completed["count"], of_completed["sum"]) == (3, pytest.approx(60.302))


def test_a_module_that_makes_codes_up_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_LABELS_MAX", 3)
    distribution = Distribution("calls_seconds", "Calls", ("module", "outcome"))
    for number in range(50):
        distribution.record(0.1, "http", f"made-up-{number}")
    distribution.record(0.1, "http", "made-up-1")
    found = {labels: counts["count"] for labels, counts in counted(distribution).items()}
    assert found == {
        ("http", "made-up-0"): 1, ("http", "made-up-1"): 2, ("http", "made-up-2"): 1, ("other", "other"): 47,
    }  # fmt: skip
