# intent_ref: tests.artifacts
"""Artifacts in files keep the promises of every store, and those of files: whole, checked, private."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modules.artifacts.files import FileArtifacts
from modules.artifacts.store import ArtifactLimits
from tests import artifact_contract as promised


@pytest.fixture
def store(tmp_path: Path) -> FileArtifacts:
    return FileArtifacts(tmp_path / "artifacts")


async def test_bytes_come_back_as_they_were(store: FileArtifacts):
    await promised.check_it_keeps_bytes(store)


async def test_tenants_do_not_meet(store: FileArtifacts):
    await promised.check_tenants_do_not_meet(store)


async def test_what_is_deleted_or_old_is_gone(store: FileArtifacts):
    await promised.check_it_forgets(store)


async def test_what_is_too_much_is_refused_before_anything_is_written(tmp_path: Path):
    folder = tmp_path / "artifacts"
    limited = FileArtifacts(folder, ArtifactLimits(1_000, 2_500))
    assert await promised.refused(limited.put("t1", b"x" * 1_001)) == "artifact-too-large"
    assert not folder.exists()
    await promised.check_its_limits(limited)
    again = FileArtifacts(folder, ArtifactLimits(1_000, 2_500))
    assert await promised.refused(again.put("t1", b"d" * 1_000)) == "artifact-quota"


async def test_a_large_value_leaves_a_claim(store: FileArtifacts):
    await promised.check_claims(store)


@pytest.mark.parametrize("damage", ["a byte", "cut", "longer", "empty", "no head"])
async def test_damage_is_found_and_wrong_bytes_are_never_given(store: FileArtifacts, tmp_path: Path, damage: str):
    stored = await store.put("t1", b"right bytes" * 20_000)
    path = tmp_path / "artifacts" / "t1" / stored.id[:2] / stored.id
    data = path.read_bytes()
    damaged = {"a byte": data[:-1] + b"X", "cut": data[:-1], "longer": data + b"X", "empty": b"", "no head": data[200:]}
    path.write_bytes(damaged[damage])
    if damage != "longer":
        assert await promised.refused(store.get("t1", stored.id)) == "artifact-corrupt"

    async def read() -> bytes:
        opened = await store.open("t1", stored.id)
        assert opened is not None
        return b"".join([chunk async for chunk in opened.chunks])

    assert await promised.refused(read()) == "artifact-corrupt"


async def test_files_are_private_and_nothing_is_left_aside(store: FileArtifacts, tmp_path: Path):
    await asyncio.gather(*(store.put("t1", bytes([number % 7]) * 10_000) for number in range(40)))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 7
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "artifacts").rglob("*") if path.is_dir()} == {0o700}


async def test_use_keeps_an_artifact_and_a_crash_leaves_nothing_for_ever(store: FileArtifacts, tmp_path: Path):
    stored = await store.put("t1", b"used again" * 10)
    folder = tmp_path / "artifacts" / "t1" / stored.id[:2]
    left = folder / f".{stored.id}.1.abcd"
    left.write_bytes(b"half")
    long_ago = (datetime.now(UTC) - timedelta(days=40)).timestamp()
    for path in (left, folder / stored.id):
        os.utime(path, (long_ago, long_ago))
    await store.put("t1", b"used again" * 10)
    assert await store.sweep(datetime.now(UTC) - timedelta(days=30)) == 0
    assert [path.name for path in folder.iterdir()] == [stored.id]


async def test_a_folder_that_cannot_be_written_is_worth_a_retry(tmp_path: Path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    assert await promised.refused(FileArtifacts(tmp_path / "artifacts").put("t1", b"x" * 10)) == "artifact-unavailable"
