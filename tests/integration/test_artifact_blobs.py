# intent_ref: tests.artifacts
"""Artifacts in Azure Blob Storage keep the promises of every store, against Azurite, Microsoft's own stand-in."""

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from azure.storage.blob.aio import ContainerClient

from modules.artifacts.store import ArtifactLimits
from quantum.blob_artifacts import BlobArtifacts
from tests import artifact_contract as promised

VERSION = "3.37.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quantum-tests" / f"azurite-{VERSION}"
PROGRAM = CACHE / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # public: every Azurite has it
ACCOUNT = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY}"


def installed() -> str | None:
    """Puts Azurite into the cache; why it is not there, where it is not."""
    if os.environ.get("QUANTUM_TEST_AZURITE") == "off":
        return "QUANTUM_TEST_AZURITE is off"
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node.js and npm are not installed, which Azurite needs"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not PROGRAM.exists():
            words = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(CACHE), f"azurite@{VERSION}"]
            try:
                subprocess.run(words, cwd=CACHE, capture_output=True, timeout=300, check=True)
            except (subprocess.SubprocessError, OSError) as fault:
                return f"npm could not install Azurite {VERSION}: {type(fault).__name__}"
    return None


@pytest.fixture(scope="module")
def azurite() -> Iterator[str]:
    """The connection string of an Azurite of this module's own."""
    if (reason := installed()) is not None:
        pytest.skip(reason)
    words = ["node", str(PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    words += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            address = next((line.split()[-1] for line in process.stdout if "successfully listens on" in line), None)
            assert address is not None, "Azurite ended before it listened"
            yield f"{ACCOUNT};BlobEndpoint={address}/devstoreaccount1;"
        finally:
            process.kill()


@pytest.fixture
async def store(azurite: str, request: pytest.FixtureRequest) -> AsyncIterator[BlobArtifacts]:
    """A store in a container of the test's own."""
    made = BlobArtifacts.connected(azurite, container_of(request))
    yield made
    await made.close()


def container_of(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("_", "-")[:50].strip("-").lower()


async def test_a_blob_comes_back_as_it_was(store: BlobArtifacts):
    await promised.check_it_keeps_bytes(store)


async def test_blobs_of_tenants_do_not_meet(store: BlobArtifacts):
    await promised.check_tenants_do_not_meet(store)


async def test_blobs_that_are_deleted_or_old_are_gone(store: BlobArtifacts):
    await promised.check_it_forgets(store)


async def test_a_blob_that_is_too_much_is_refused(azurite: str, request: pytest.FixtureRequest):
    limited = BlobArtifacts.connected(azurite, container_of(request), ArtifactLimits(1_000, 2_500))
    await promised.check_its_limits(limited)
    await limited.close()


async def test_a_large_value_leaves_a_claim_to_a_blob(store: BlobArtifacts):
    await promised.check_claims(store)


async def test_a_blob_that_was_changed_is_never_given(store: BlobArtifacts, azurite: str, request: pytest.FixtureRequest):
    stored = await store.put("t1", b"right bytes" * 1_000)
    async with ContainerClient.from_connection_string(azurite, container_of(request)) as container:
        metadata = {"sha256": stored.sha256}
        await container.upload_blob(f"t1/{stored.id}", b"wrong bytes" * 1_000, overwrite=True, metadata=metadata)
    assert await promised.refused(store.get("t1", stored.id)) == "artifact-corrupt"


async def test_a_store_that_is_away_is_worth_a_retry():
    address = "http://127.0.0.1:1/devstoreaccount1"
    container = ContainerClient.from_connection_string(f"{ACCOUNT};BlobEndpoint={address};", "away", retry_total=0)
    away = BlobArtifacts(container)
    async with asyncio.timeout(30):
        assert await promised.refused(away.put("t1", b"x")) == "artifact-unavailable"
        assert await promised.refused(away.get("t1", "0" * 64)) == "artifact-unavailable"
    await away.close()
