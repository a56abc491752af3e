# intent_ref: tests.artifacts
"""What every artifact store promises, as checks that each of them passes."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from modules.artifacts.claim_check import checked_in, checked_out
from modules.artifacts.store import ArtifactStore, check_place
from modules.contract import ModuleError


async def refused(work: object) -> str:
    """The code of the error that `work` ends with."""
    with pytest.raises(ModuleError) as raised:
        await work  # type: ignore[misc]
    return raised.value.code


async def check_it_keeps_bytes(store: ArtifactStore) -> None:
    """Bytes come back as they were, the same ones under one id, and in pieces as well."""
    data = bytes(range(256)) * 2_000
    stored = await store.put("t1", data, "application/octet-stream")
    assert (stored.size, stored.content_type) == (len(data), "application/octet-stream")
    assert await store.get("t1", stored.id) == data
    assert await store.put("t1", data, "application/octet-stream") == stored
    assert (await store.put("t1", data, "application/json")).id != stored.id
    opened = await store.open("t1", stored.id)
    assert opened is not None
    assert opened.artifact == stored
    assert b"".join([chunk async for chunk in opened.chunks]) == data


async def check_tenants_do_not_meet(store: ArtifactStore) -> None:
    """What is one tenant's does not exist for another, and no name leads elsewhere."""
    stored = await store.put("t1", b"x" * 100)
    assert await refused(store.get("t2", stored.id)) == "artifact-unknown"
    assert await store.open("t2", stored.id) is None
    assert not await store.delete("t2", stored.id)
    for tenant, identity in (
        ("t1", "../" + stored.id),
        ("t1", ""),
        ("../t1", stored.id),
        ("t1", stored.id.upper() + "A"),
        ("t1", "é" * 64),
    ):
        assert not check_place(tenant, identity)
        assert await refused(store.get(tenant, identity)) == "artifact-unknown"
        assert await store.open(tenant, identity) is None
    assert await store.get("t1", stored.id) == b"x" * 100


async def check_it_forgets(store: ArtifactStore) -> None:
    """What is deleted or has become old is gone; what is new stays."""
    stored = await store.put("t1", b"to be deleted" * 10)
    assert await store.delete("t1", stored.id)
    assert not await store.delete("t1", stored.id)
    assert await refused(store.get("t1", stored.id)) == "artifact-unknown"
    kept = await store.put("t3", b"kept" * 10)
    assert await store.sweep(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await store.get("t3", kept.id) == b"kept" * 10
    assert await store.sweep(datetime.now(UTC) + timedelta(hours=1)) >= 1
    assert await refused(store.get("t3", kept.id)) == "artifact-unknown"


async def check_its_limits(store: ArtifactStore) -> None:
    """With at most 1,000 bytes an artifact and 2,500 a tenant: what is too much is refused, and nothing of it is written."""
    assert await refused(store.put("t1", b"x" * 1_001)) == "artifact-too-large"
    await store.put("t1", b"a" * 800)
    await store.put("t1", b"b" * 800)
    assert await refused(store.put("t1", b"c" * 1_000)) == "artifact-quota"
    await store.put("t2", b"c" * 1_000)
    done = await asyncio.gather(*(store.put("t4", bytes([number]) * 900) for number in range(5)), return_exceptions=True)
    assert sum(isinstance(one, ModuleError) for one in done) >= 3


async def check_claims(store: ArtifactStore) -> None:
    """A large value leaves a claim, which only its own tenant can redeem."""
    small, large = {"a": 1}, {"rows": ["größe" * 100] * 600}
    assert await checked_in(store, "t1", small) == small
    claim = await checked_in(store, "t1", large)
    assert set(claim) == {"$artifact"}
    assert claim["$artifact"]["size"] > 262_144
    assert await checked_in(store, "t1", large) == claim
    value = {"before": [claim, {"again": claim}], "n": 1}
    assert await checked_out(store, "t1", value) == {"before": [large, {"again": large}], "n": 1}
    assert await refused(checked_out(store, "t2", value)) == "artifact-unknown"
    assert await refused(checked_out(store, "t1", value, bytes_max=400_000)) == "artifact-too-large"
    for wrong in ({"size": 5}, {"id": "../x"}, {"id": "0" * 64}, {"size": None}):
        changed = {"$artifact": {**claim["$artifact"], **wrong}}
        assert await refused(checked_out(store, "t1", changed)) in ("artifact-unknown", "artifact-corrupt")
    other = {"$artifact": "a word", "more": {"$artifact": 1}}
    assert await checked_out(store, "t1", other) == other
