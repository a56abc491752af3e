# intent_ref: tests.artifacts
"""Inputs too large for the log that lie in Azure Blob Storage, against Azurite."""

from pathlib import Path

from tests.azurite import azurite
from tests.conftest import Database
from tests.http_platform import serving
from tests.large_inputs import SIZES, check_a_large_input_reaches_its_module, taker


async def test_a_large_input_reaches_its_module_by_way_of_blobs(database: Database, tmp_path: Path):
    async with (
        azurite() as connection,
        serving(database, tmp_path, private_addresses=True, artifact_connection=connection) as blobs,
    ):
        for size in SIZES:
            with taker() as module:
                await check_a_large_input_reaches_its_module(await blobs.tenant(), module, size)
    assert not (tmp_path / "artifacts").exists()
