# intent_ref: tests.kafka-transport
"""The settings of the stream: what cannot be right is said in a sentence, and no password is repeated."""

from pathlib import Path

import pytest

from quantum.settings import SettingsError, load_settings
from quantum.streams import relay_name

SECRET = "a-password-nobody-should-see"


def test_the_kafka_endpoint_of_event_hubs_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STREAM": "kafka", "KAFKA_BOOTSTRAP": "n.servicebus.windows.net:9093", "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "KAFKA_SASL_USERNAME": "$ConnectionString", "KAFKA_SASL_PASSWORD": SECRET, "KAFKA_TOPIC": "events",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"QUANTUM_{name}", value)
    settings = load_settings()
    assert (settings.kafka_security_protocol, settings.kafka_sasl_mechanism) == ("SASL_SSL", "PLAIN")
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_PASSWORD": SECRET}, "QUANTUM_KAFKA_SASL_USERNAME is missing"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "u"}, "QUANTUM_KAFKA_SASL_PASSWORD is missing"),
        ({"KAFKA_SASL_PASSWORD": SECRET}, "QUANTUM_KAFKA_SASL_PASSWORD is of use only with"),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "QUANTUM_KAFKA_SECURITY_PROTOCOL should be"),
        ({"KAFKA_SASL_MECHANISM": "GSSAPI"}, "QUANTUM_KAFKA_SASL_MECHANISM should be"),
        ({"KAFKA_CA_FILE": "/nowhere/ca.pem"}, "QUANTUM_KAFKA_CA_FILE should be a file"),
        ({"KAFKA_TOPIC": "no spaces"}, "QUANTUM_KAFKA_TOPIC should"),
        ({"KAFKA_TOPIC_PARTITIONS": "-1"}, "QUANTUM_KAFKA_TOPIC_PARTITIONS should"),
    ],
)
def test_what_cannot_be_right_is_refused(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], sentence: str) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"QUANTUM_{name}", value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert sentence in str(refused.value)
    assert SECRET not in str(refused.value)


def test_each_engine_and_topic_has_a_relay_checkpoint_of_its_own(tmp_path: Path) -> None:
    kafka = {"stream": "kafka", "kafka_bootstrap": "h:1"}
    choices = ({}, kafka, {**kafka, "kafka_topic": "b"})
    assert len({relay_name(load_settings(data_dir=tmp_path, **chosen)) for chosen in choices}) == 3
