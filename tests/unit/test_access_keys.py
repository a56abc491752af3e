# intent_ref: access.tokens
"""Keys of an identity provider: fetched when needed, seldom, and kept when the provider is away."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from access.keys import FRESH_SECONDS, REFRESH_SECONDS_MIN, KeysUnavailable, RemoteKeys, keys_of

FIRST, SECOND = OKPKey.generate_key("Ed25519"), OKPKey.generate_key("Ed25519")


def entry(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, **more}


class Provider:
    """An identity provider that answers as it is told."""

    def __init__(self) -> None:
        self.answer: Any = {"keys": [entry(FIRST, "first")]}
        self.requests, self.now = 0, 1000.0

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, httpx.Response) else httpx.Response(200, json=self.answer)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def keys(provider: Provider) -> AsyncIterator[RemoteKeys]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(provider.handle)) as client:
        yield RemoteKeys("https://id.example.com/jwks", client, clock=lambda: provider.now)


async def test_keys_are_fetched_once_and_kept_for_a_day(provider: Provider, keys: RemoteKeys):
    for _ in range(3):
        assert await keys.key("first") is not None
    provider.now += FRESH_SECONDS - 1
    assert await keys.key("first") is not None
    assert provider.requests == 1
    provider.now += 2
    assert await keys.key("first") is not None
    assert provider.requests == 2


async def test_an_unknown_key_asks_again_at_most_every_five_minutes(provider: Provider, keys: RemoteKeys):
    await keys.key("first")
    provider.answer = {"keys": [entry(FIRST, "first"), entry(SECOND, "second")]}
    for _ in range(5):
        assert await keys.key("second") is None
    assert provider.requests == 1
    provider.now += REFRESH_SECONDS_MIN
    assert await keys.key("second") is not None
    assert await keys.key("third") is None
    assert provider.requests == 2


@pytest.mark.parametrize(
    "answer",
    [httpx.ConnectError("away"), httpx.Response(500), httpx.Response(200, content=b"{"), {"keys": []}, {"keys": "x"}, [], "x"],
)
async def test_the_last_good_keys_serve_on_when_the_provider_does_not(provider: Provider, keys: RemoteKeys, answer: Any):
    await keys.key("first")
    provider.answer = answer
    provider.now += FRESH_SECONDS * 2
    assert await keys.key("first") is not None
    assert provider.requests == 2


async def test_a_set_that_is_too_large_is_not_read_to_its_end(provider: Provider, keys: RemoteKeys):
    await keys.key("first")
    provider.answer = httpx.Response(200, content=b" " * (3 << 20))
    provider.now += FRESH_SECONDS
    assert await keys.key("first") is not None


async def test_without_any_keys_tokens_cannot_be_verified_yet_and_soon_can(provider: Provider, keys: RemoteKeys):
    good, provider.answer = provider.answer, httpx.ConnectError("away")
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await keys.key("first")
    assert provider.requests == 1
    provider.answer = good
    provider.now += 1
    assert await keys.key("first") is not None


def test_only_keys_that_may_verify_signatures_are_taken():
    weak = {"kty": "RSA", "n": RSAKey.generate_key(2048).as_dict(private=False)["n"][:100], "e": "AQAB", "kid": "weak"}
    found = keys_of(
        {
            "keys": [
                entry(FIRST, "ed"), entry(RSAKey.generate_key(2048), "rsa"), entry(OKPKey.generate_key("X25519"), "x25519"),
                entry(FIRST, "for-encryption", use="enc"), entry(RSAKey.generate_key(2048), "ps", alg="PS256"),
                entry(ECKey.generate_key("P-256"), "ec"), {**OctKey.generate_key(256).as_dict(private=True), "kid": "oct"},
                weak, {}, None, 7, {"kty": "OKP", "crv": "Ed25519", "x": 5, "kid": "broken"},
            ]
        }
    )  # fmt: skip
    assert set(found) == {"ed", "rsa"}
