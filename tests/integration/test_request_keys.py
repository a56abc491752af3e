# intent_ref: tests.http
"""`Idempotency-Key` on every POST that `/openapi.json` lists: the first answer again, one effect, and another body refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.http_modules import http_module
from tests.api_probe import Operation, assert_problem, operations_of
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.posts import CASES, Places
from tests.receivers import receiver

REPLAYED = "Idempotency-Replayed"
ANSWERS = ("/callbacks", "/work/{lease_token}/")
"""An attempt has one outcome: whoever gives it twice is told so, under whichever key."""
TOLD = ("Quantum-Position", "ETag", "Location", "Content-Type", "Cache-Control")


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    folder = Path(tmp_path_factory.mktemp("data"))
    async with serving(database, folder, private_addresses=True, public_url="http://quantum.example") as running:
        yield running


@pytest.fixture(scope="module")
async def places() -> AsyncIterator[Places]:
    async with receiver() as hook:
        with http_module(lambda body: (202, {})) as module:
            yield Places(module, hook)


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


def content(answer: httpx.Response) -> Any:
    """What it says; a secret is said once and never again."""
    said = answer.json() if answer.content else None
    return {**said, "secret": None} if isinstance(said, dict) and "secret" in said else said


def assert_replayed(again: httpx.Response, first: httpx.Response) -> None:
    """It is the first answer, and says so."""
    assert (again.status_code, content(again)) == (first.status_code, content(first)), again.text
    assert {name: again.headers.get(name) for name in TOLD} == {name: first.headers.get(name) for name in TOLD}
    assert again.headers.get(REPLAYED) == "true"


def assert_reused(answer: httpx.Response) -> None:
    """It is refused, because the key belongs to another request."""
    assert assert_problem(answer, 422)["code"] == "idempotency-key-reused"


async def posts(http: Http) -> list[Operation]:
    described = (await http.client.get("/openapi.json")).json()
    return [one for one in operations_of(described) if one.method == "POST"]


async def test_every_post_has_a_case_here_and_says_that_it_takes_a_key(http: Http):
    described = (await http.client.get("/openapi.json")).json()["paths"]
    found = await posts(http)
    assert {one.path.removeprefix(API) for one in found} == set(CASES)
    for one in found:
        assert "Idempotency-Key" in one.header_names, one
        for status, answer in described[one.path]["post"]["responses"].items():
            assert (REPLAYED in answer.get("headers", {})) == (int(status) < 300), (one, status)


@pytest.mark.parametrize("path", list(CASES))
async def test_the_same_request_gets_the_first_answer_and_another_body_is_refused(http: Http, places: Places, path: str):
    post = await CASES[path](await http.tenant(), places)
    first = await post.sent(http, "one")
    assert 200 <= first.status_code < 300, first.text
    assert REPLAYED not in first.headers
    for _ in range(2):
        assert_replayed(await post.sent(http, "one"), first)
    assert_reused(await post.sent(http, "one", other=True))
    assert_replayed(await post.sent(http, "one"), first)
    # Where the same again is accepted, it may well change nothing: that is remembered as well.
    second = await post.sent(http, "two")
    if second.status_code < 300:
        if not path.startswith(ANSWERS):
            assert REPLAYED not in second.headers
        assert_replayed(await post.sent(http, "two"), second)
        assert_reused(await post.sent(http, "two", other=True))
    else:
        assert_problem(second, 409)
    # The same key of somebody else is another one.
    if post.roles != ("platform-admin",) and not path.startswith("/callbacks"):
        theirs = await post.sent(http, "one", subject="grace")
        assert theirs.status_code < 300 or theirs.json()["code"] != "idempotency-key-reused"
        if not path.startswith("/work/{lease_token}/"):
            assert REPLAYED not in theirs.headers


@pytest.mark.parametrize("path", [path for path in CASES if not path.startswith("/tenants")])
async def test_the_same_key_of_another_tenant_is_another_one(http: Http, places: Places, path: str):
    answers = []
    for _ in range(2):
        post = await CASES[path](await http.tenant(), places)
        answers.append(await post.sent(http, "shared"))
    assert [answer.status_code < 300 for answer in answers] == [True, True], [answer.text for answer in answers]
    assert all(REPLAYED not in answer.headers for answer in answers)


@pytest.mark.parametrize("path", list(CASES))
async def test_many_at_once_have_one_answer(http: Http, places: Places, path: str):
    post = await CASES[path](await http.tenant(), places)
    answers = await asyncio.gather(*(post.sent(http, "together") for _ in range(5)))
    assert len({answer.status_code for answer in answers}) == 1, [answer.text for answer in answers]
    assert answers[0].status_code < 300
    first = next((answer for answer in answers if REPLAYED not in answer.headers), answers[0])
    assert [content(answer) for answer in answers] == [content(first)] * 5
    assert [REPLAYED in answer.headers for answer in answers].count(False) == 1
