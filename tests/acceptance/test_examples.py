# intent_ref: tests.documentation
"""The modules under examples/ and on docs/modules.md work with the platform as it is."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.acceptance.outside import Outside, Tenant, command
from tests.platforms import Served, temporary_directory

ROOT = Path(__file__).parents[2]


def documented_module() -> dict[str, object]:
    """The registration that docs/modules.md shows."""
    block = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "modules.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    document: dict[str, object] = json.loads(block[1])
    return document


@contextmanager
def example_module() -> Iterator[str]:
    """The address of the example, running."""
    words = [sys.executable, str(ROOT / "examples" / "http_module.py"), "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def plugin_folder() -> Iterator[Path]:
    """A folder with the example plug-in installed in it."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
             "--disable-pip-version-check"]  # fmt: skip
    with temporary_directory() as folder:
        words += ["--target", str(folder / "site"), str(ROOT / "examples" / "plugin")]
        installed = subprocess.run(words, capture_output=True, text=True, check=False)
        assert installed.returncode == 0, installed.stderr
        yield folder / "site"


async def test_the_http_example_carries_out_its_action(tenant: Tenant):
    with example_module() as url:
        registered = await tenant.post("/modules", {**documented_module(), "transport": {"type": "http", "url": url}})
        assert registered.status_code == 201, registered.text
        ended = await tenant.ended(await tenant.start([{"action": "greet", "name": "Ada"}]))
        assert ended["steps"][0]["result"] == {"greeting": "Hello, Ada!", "attempt": 1}
        without = await tenant.ended(await tenant.start([{"action": "greet"}]))
        assert without["steps"][0]["error"]["code"] == "input-invalid"


@pytest.mark.slow
async def test_the_example_plugin_is_there_once_it_is_installed(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(plugin_folder), os.environ.get("PYTHONPATH")])))
    with temporary_directory() as directory:
        served = Served(directory / "data")
        try:
            await served.start()
            async with httpx.AsyncClient(base_url=served.address, timeout=30) as client:
                tenant = await Outside(served, client).tenant()
                ended = await tenant.ended(await tenant.start([{"action": "throw-dice", "sides": 2}]))
                assert ended["steps"][0]["result"]["thrown"] in (1, 2)
                refused = await tenant.ended(await tenant.start([{"action": "throw-dice", "sides": 1}]))
                assert refused["steps"][0]["error"]["code"] == "no-such-dice"
            checked = command("doctor", "--json", data_dir=served.data_dir, port=str(served.port))
            assert {"check": "plug-ins", "ok": True, "detail": "1 installed", "mend": ""} in json.loads(checked.stdout)
        finally:
            await served.stop()
