# intent_ref: tests.webhooks
"""Where deliveries may not go: addresses of the platform's own network, however they are named."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httpcore
import pytest

from event_store.store import EventStore
from modules.addresses import CheckedNetwork, is_public
from tests.receivers import Answer, receiver
from tests.waiting import wait_until
from tests.webhook_world import World

INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255", "192.0.0.1", "198.18.0.1", "240.0.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "64:ff9b:1:a00:0:100:808:808",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_an_address_of_the_open_internet_is_public(address: str):
    assert is_public(address)


async def _told(world: World, id: str) -> str:
    async def error() -> str | None:
        attempts: str | None = await world.store.platform_pool.fetchval(
            "SELECT attempts FROM quantum.webhook_deliveries WHERE tenant_id = $1 AND subscription_id = $2", world.tenant, id
        )
        return attempts

    found = await wait_until(error, what="an attempt")
    assert found is not None
    return found


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "2130706433", "0x7f000001",
     "0177.0.0.1", "127.1", "0", "169.254.169.254"],
)  # fmt: skip
async def test_a_receiver_inside_is_refused_at_delivery_however_it_is_written(store: EventStore, host: str):
    world = World(store)
    async with receiver() as hook, world.delivering(network=CheckedNetwork(allow_private=False)):
        id, _ = await world.subscribe(f"http://{host}:{hook.port}/hook")
        await world.happen("execution-1")
        told = await _told(world, id)
        assert '"error":"address-forbidden"' in told or '"error": "address-forbidden"' in told, told
        assert not hook.received
        assert hook.connections == 0


async def test_a_redirect_inside_is_not_followed(store: EventStore):
    world = World(store)
    async with receiver() as inside:
        target = {"Location": f"http://127.0.0.1:{inside.port}/latest/meta-data"}
        for status in (301, 302, 303, 307, 308):
            async with receiver(lambda _got, status=status: Answer(status, target)) as hook, world.delivering():
                id, _ = await world.subscribe(hook.url)
                await world.happen("execution-1")
                assert "redirect-not-followed" in await _told(world, id)
        assert inside.connections == 0


async def test_a_name_that_leads_elsewhere_after_the_check_is_asked_once_only(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    """DNS that first answers with a public address and then with ours: what was checked is what is connected to."""
    world, asked, reached, loop = World(store), list[str](), list[str](), asyncio.get_running_loop()
    resolve: Callable[..., Any] = loop.getaddrinfo

    async def changing(host: Any, port: Any, **options: Any) -> Any:
        if host != "rebinding.example":
            return await resolve(host, port, **options)
        asked.append(host)
        address = "1.1.1.1" if len(asked) % 2 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(loop, "getaddrinfo", changing)

    async def connect(_backend: Any, host: str, *_more: Any, **_options: Any) -> Any:
        reached.append(host)
        raise httpcore.ConnectError("nobody is there")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    network = CheckedNetwork(allow_private=False)
    async with world.delivering(network=network) as deliverer:
        id, _ = await world.subscribe("http://rebinding.example/hook")
        await world.happen("execution-1")
        await _told(world, id)
        for _ in range(3):
            seen = len(asked)
            world.clock.forward(hours=12)
            deliverer.wake()
            await wait_until(lambda seen=seen: len(asked) > seen and not deliverer.in_flight, what="another try")
        assert len(asked) == 4
        assert reached == ["1.1.1.1"] * 2


@pytest.mark.parametrize(
    "address", ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1%lo", "::1", "fd00::1"]
)
async def test_a_name_that_leads_inside_in_another_form_is_refused(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, address: str
):  # fmt: skip
    world, loop = World(store), asyncio.get_running_loop()
    resolve: Callable[..., Any] = loop.getaddrinfo

    async def mapped(host: Any, port: Any, **options: Any) -> Any:
        if host != "mapped.example":
            return await resolve(host, port, **options)
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))]

    monkeypatch.setattr(loop, "getaddrinfo", mapped)
    async with receiver() as hook, world.delivering(network=CheckedNetwork(allow_private=False)):
        id, _ = await world.subscribe(f"http://mapped.example:{hook.port}/hook")
        await world.happen("execution-1")
        assert "address-forbidden" in await _told(world, id)
        assert hook.connections == 0


async def test_one_address_inside_among_others_is_enough_to_refuse(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    world, loop = World(store), asyncio.get_running_loop()
    resolve: Callable[..., Any] = loop.getaddrinfo

    async def several(host: Any, port: Any, **options: Any) -> Any:
        if host != "several.example":
            return await resolve(host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("1.1.1.1", "127.0.0.1")]

    monkeypatch.setattr(loop, "getaddrinfo", several)
    async with receiver() as hook, world.delivering(network=CheckedNetwork(allow_private=False)):
        id, _ = await world.subscribe(f"http://several.example:{hook.port}/hook")
        await world.happen("execution-1")
        assert "address-forbidden" in await _told(world, id)
        assert hook.connections == 0
