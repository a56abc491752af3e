# intent_ref: tests.webhooks
"""Deliveries over TLS: the certificate is held against the name in the URL, whichever address that led to and was pinned."""

import socket
from pathlib import Path
from typing import Any

import orjson
import pytest

from event_store.store import EventStore
from modules.addresses import CheckedNetwork
from tests.certificates import Authority
from tests.receivers import receiver
from tests.waiting import wait_until
from tests.webhook_world import World

NAME = "hooks.example.test"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were resolved; those under `example.test` lead to this machine."""
    names, real = list[str](), socket.getaddrinfo

    def resolve(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if not str(host).endswith(".example.test"):
            return real(host, port, *more, **options)
        names.append(str(host))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


async def attempts(world: World, id: str, count: int = 1) -> list[dict[str, Any]]:
    """The attempts of a subscription's one delivery, once there are so many."""

    async def found() -> list[dict[str, Any]]:
        text = await world.store.platform_pool.fetchval(
            "SELECT attempts FROM quantum.webhook_deliveries WHERE tenant_id = $1 AND subscription_id = $2", world.tenant, id
        )
        made: list[dict[str, Any]] = orjson.loads(text) if text else []
        return made if len(made) >= count else []

    return await wait_until(found, what=f"{count} attempts")


async def test_a_receiver_is_reached_by_the_address_that_was_checked_and_by_its_name(
    store: EventStore, authority: Authority, asked: list[str]
):
    world, sni = World(store), list[str | None]()
    async with receiver(tls=authority.server(NAME, sni=sni)) as hook, world.delivering(tls=authority.trusted()):
        id, _ = await world.subscribe(f"https://{NAME}:{hook.port}/hook?a=1")
        await world.happen("execution-1", "execution-1")
        await world.until_delivered(id, 2)
        assert {got.headers["host"] for got in hook.received} == {f"{NAME}:{hook.port}"}
        assert hook.received[0].path == "/hook?a=1"
        assert sni == [NAME] * hook.connections
        assert asked == [NAME] * hook.connections


async def test_a_certificate_for_an_address_is_good_for_a_url_with_that_address(store: EventStore, authority: Authority):
    world = World(store)
    async with receiver(tls=authority.server("127.0.0.1")) as hook, world.delivering(tls=authority.trusted()):
        id, _ = await world.subscribe(f"https://127.0.0.1:{hook.port}/hook")
        await world.happen("execution-1")
        await world.until_delivered(id, 1)


@pytest.mark.parametrize("wrong", ["another name", "the address alone", "an authority nobody knows", "expired"])
async def test_a_wrong_certificate_is_refused_and_the_log_of_deliveries_tells_so(
    store: EventStore, authority: Authority, asked: list[str], tmp_path: Path, wrong: str
):
    others = tmp_path / "others"
    others.mkdir()
    server = {
        "another name": lambda: authority.server("other.example.test", "example.test"),
        "the address alone": lambda: authority.server("127.0.0.1"),
        "an authority nobody knows": lambda: Authority(others, "Somebody else's").server(NAME),
        "expired": lambda: authority.server(NAME, is_expired=True),
    }[wrong]()
    world = World(store)
    async with receiver(tls=server) as hook, receiver() as fine, world.delivering(tls=authority.trusted()):
        id, _ = await world.subscribe(f"https://{NAME}:{hook.port}/hook")
        well, _ = await world.subscribe(fine.url)
        await world.happen("execution-1")
        (attempt,) = await attempts(world, id)
        assert (attempt["error"], attempt["status"], attempt["response"]) == ("tls-refused", None, "")
        assert hook.received == []
        await world.until_delivered(well, 1)


async def test_once_the_certificate_is_mended_what_waited_is_delivered(
    store: EventStore, authority: Authority, asked: list[str]
):  # fmt: skip
    world = World(store)
    context = authority.server("other.example.test")
    async with receiver(tls=context) as hook, world.delivering(tls=authority.trusted()) as deliverer:
        id, _ = await world.subscribe(f"https://{NAME}:{hook.port}/hook")
        await world.happen("execution-1")
        await attempts(world, id)
        good = authority.server(NAME)
        context.sni_callback = lambda one, _name, _context: setattr(one, "context", good)
        world.clock.forward(minutes=1)
        deliverer.wake()
        await world.until_delivered(id, 1)
        assert [one["error"] for one in await attempts(world, id, 2)] == ["tls-refused", None]


async def test_a_name_that_leads_inside_is_refused_before_a_byte_is_sent(
    store: EventStore, authority: Authority, asked: list[str]
):  # fmt: skip
    world = World(store)
    network = CheckedNetwork(allow_private=False)
    async with receiver(tls=authority.server(NAME)) as hook, world.delivering(network=network, tls=authority.trusted()):
        id, _ = await world.subscribe(f"https://{NAME}:{hook.port}/hook")
        await world.happen("execution-1")
        assert (await attempts(world, id))[0]["error"] == "address-forbidden"
        assert (hook.connections, asked) == (0, [NAME])
