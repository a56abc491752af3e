# intent_ref: bench.peer-restate
"""What the benchmarks' Restate is told, and what is said where it cannot run."""

from pathlib import Path

import pytest

from bench.peer_restate import SETTINGS, Setting, best_steps_a_second, environment_of, package_of, why_not

PORTS = (8080, 9070, 5122)


@pytest.mark.parametrize(
    ("system", "machine", "package"),
    [
        ("Linux", "x86_64", "@restatedev/restate-server-linux-x64"),
        ("Linux", "aarch64", "@restatedev/restate-server-linux-arm64"),
        ("Darwin", "arm64", "@restatedev/restate-server-darwin-arm64"),
        ("Windows", "AMD64", None),
        ("Linux", "riscv64", None),
    ],
)
def test_the_server_is_the_one_for_this_system_and_processor(system: str, machine: str, package: str | None):
    assert package_of(system, machine) == package


def test_the_server_keeps_to_loopback_and_tells_nobody_of_itself():
    told = environment_of(Setting(4, 2, streams=8), PORTS, {"LANG": "C.UTF-8"})
    assert told["LANG"] == "C.UTF-8"
    assert told["RESTATE_DISABLE_TELEMETRY"] == "true"
    addresses = {name: text for name, text in told.items() if name.endswith("BIND_ADDRESS")}
    assert addresses == {
        "RESTATE_INGRESS__BIND_ADDRESS": "127.0.0.1:8080",
        "RESTATE_ADMIN__BIND_ADDRESS": "127.0.0.1:9070",
        "RESTATE_BIND_ADDRESS": "127.0.0.1:5122",
    }
    assert told["RESTATE_DEFAULT_NUM_PARTITIONS"] == "4"
    assert told["RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT"] == "8"


def test_neither_somebodys_own_restate_nor_a_proxy_changes_what_is_measured():
    surroundings = {"RESTATE_BIFROST__LOCAL__ROCKSDB_DISABLE_WAL": "true", "https_proxy": "http://proxy:1", "HTTP_PROXY": "x"}
    told = environment_of(SETTINGS[0], PORTS, surroundings)
    assert not surroundings.keys() & told.keys()


def test_a_setting_says_what_it_is():
    assert [str(Setting(4, 1)), str(Setting(1, 2))] == ["4 partitions, 1 granian worker", "1 partition, 2 granian workers"]


async def test_where_node_is_missing_it_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "node and npm" in (why_not() or "")
    assert await best_steps_a_second(1) is None
    assert "left out: no Restate: node and npm" in capsys.readouterr().err
