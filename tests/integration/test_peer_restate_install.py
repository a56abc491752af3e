# intent_ref: bench.peer-restate
"""A server that npm cannot bring is left out of the benchmarks, and asked for again the next time."""

import os
import platform
from pathlib import Path

import pytest

from bench.peer_restate import RestateFault, package_of, program

pytestmark = pytest.mark.skipif(package_of(platform.system(), platform.machine()) is None, reason="no Restate for this machine")


def npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts an npm of ours before the others, and an empty cache in the place of the user's."""
    binary = folder / "bin" / "npm"
    binary.parent.mkdir()
    binary.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def test_why_npm_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm(tmp_path, "echo 'the registry is away' >&2; exit 1", monkeypatch)
    with pytest.raises(RestateFault, match="the registry is away"):
        program()
    assert not list(tmp_path.rglob("complete"))


def test_an_installation_without_the_binary_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm(tmp_path, "exit 0", monkeypatch)
    with pytest.raises(RestateFault, match="without @restatedev/restate-server-"):
        program()
    assert not list(tmp_path.rglob("complete"))


def test_what_is_installed_is_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = package_of(platform.system(), platform.machine())
    binary = f"$3/node_modules/{package}/bin/restate-server"
    npm(tmp_path, f'echo . >> "$HOME/asked"; mkdir -p "$(dirname "{binary}")"; touch "{binary}"', monkeypatch)
    assert program() == program()
    assert (tmp_path / "asked").read_text() == ".\n"
