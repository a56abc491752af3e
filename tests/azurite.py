# intent_ref: tests.azurite
"""Azure Blob storage for tests: azurite, which npm installs into the user's cache, as a process of its own on loopback."""

import asyncio
import fcntl
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

from tests.platforms import free_port
from tests.waiting import wait_until

VERSION = "3.35.0"
# Azurite's published account: the same everywhere, and good for nothing else.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_INSTALL_SECONDS_MAX = 300.0


def _program() -> Path:
    """The program's file, installed at first use; skips, with the reason, where that cannot be."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Azure Blob storage: {' and '.join(missing)} missing")
    folder = user_cache_path("quantum-tests") / f"azurite-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            installed = subprocess.run(
                ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved",
                 "--no-package-lock", f"azurite@{VERSION}"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_INSTALL_SECONDS_MAX, check=False,
            )  # fmt: skip
            if installed.returncode != 0:
                pytest.skip(f"no Azure Blob storage: npm cannot install azurite: {installed.stderr[-300:]}")
            (folder / "complete").touch()
    return folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@asynccontextmanager
async def azurite() -> AsyncIterator[str]:
    """The connection string of a blob service that is empty, and gone afterwards."""
    program, port = await asyncio.to_thread(_program), free_port()
    process = await asyncio.create_subprocess_exec(
        "node", str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry",
        "--silent", "--skipApiVersionCheck", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        listens: Callable[[], Any] = partial(_listens, port)
        await wait_until(listens, 60, what="azurite to listen", every_seconds=0.1)
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{_ACCOUNT};"
        )
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
