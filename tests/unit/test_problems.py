# intent_ref: access.problems
"""Every error is one problem document, and tells nothing it should not."""

import inspect
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI, Request, Response

from access.http.edge import Edge
from access.http.handlers import install, problem_of
from access.http.problems import KINDS, Problem, document
from access.keys import KeysUnavailable
from access.tokens import TokenRefused
from commands import handle
from domain import refusals
from domain.refusals import DefinitionInvalid, Fault, Refusal
from event_store.records import AppendTooLarge, StoreUnavailable, StreamBusy
from event_store.tokens import InvalidToken

SECRET = "postgresql://quantum:hunter2@db/quantum"


def every_refusal() -> list[type[Refusal]]:
    found = [one for _, one in inspect.getmembers(refusals, inspect.isclass) if issubclass(one, Refusal)]
    return [*found, handle.IdempotencyKeyReused]


def app_that(fault: Exception | None = None, *, body: bytes = b"{}", **edge: Any) -> Edge:
    app = FastAPI(openapi_url=None)
    install(app)

    @app.get("/thing/{name}")
    async def read(name: str) -> Response:
        if fault is not None:
            raise fault
        return Response(body)

    @app.put("/thing/{name}")
    async def write(name: str, request: Request) -> Response:
        return Response(str(len(await request.body())))

    return Edge(app, **edge)


def client(app: Edge) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("refusal", every_refusal(), ids=lambda one: one.__name__)
def test_every_refusal_has_its_row_in_the_table(refusal: type[Refusal]):
    assert refusal.code in KINDS
    assert 400 <= KINDS[refusal.code].status < 500


def test_codes_are_fit_for_addresses():
    assert all(code.replace("-", "").isalpha() and code.islower() for code in KINDS)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Problem("not-found", "x"), 404, "not-found"),
        (refusals.NotFound("intent", "7"), 404, "not-found"),
        (refusals.TenantUnknown("t"), 403, "tenant-unknown"),
        (refusals.TenantIsSuspended("t"), 403, "tenant-suspended"),
        (refusals.IntentNameTaken("n"), 409, "intent-name-taken"),
        (refusals.IntentVersionStale("i", 1, 2), 412, "intent-version-stale"),
        (DefinitionInvalid([Fault("/a", "b")]), 422, "definition-invalid"),
        (handle.IdempotencyKeyReused(), 422, "idempotency-key-reused"),
        (TokenRefused("token-expired", "x"), 401, "token-expired"),
        (KeysUnavailable("x"), 503, "keys-unavailable"),
        (StoreUnavailable(SECRET), 503, "store-unavailable"),
        (StreamBusy("intent-7", 5), 503, "busy"),
        (InvalidToken("x"), 400, "position-invalid"),
        (AppendTooLarge("x"), 413, "body-too-large"),
        (RuntimeError(SECRET), 500, "internal-error"),
        (KeyError(SECRET), 500, "internal-error"),
    ],
)
async def test_an_exception_becomes_its_problem(fault: Exception, status: int, code: str):
    async with client(app_that(fault)) as http:
        answer = await http.get("/thing/a b", headers={"Quantum-Correlation-Id": "conversation-7"})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = answer.json()
    assert found["type"] == f"/problems/{code}"
    assert (found["status"], found["instance"]) == (status, "/thing/a%20b")
    assert found["title"] == KINDS[code].title
    assert found["detail"]
    assert found["trace_id"] == "conversation-7"
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert problem_of(fault).code == code


async def test_faults_are_listed_with_their_places():
    faults = [Fault("/definition/steps/0/action", "There is no such action.", "unknown-action"), Fault("/name", "Too long.")]
    async with client(app_that(DefinitionInvalid(faults))) as http:
        found = (await http.get("/thing/a")).json()
    assert [error["pointer"] for error in found["errors"]] == ["/definition/steps/0/action", "/name"]
    assert "2 faults" in found["detail"]


async def test_an_unknown_address_is_a_problem_too():
    async with client(app_that()) as http:
        answer = await http.get("/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "route-unknown")


async def test_a_method_that_does_not_apply_is_told_which_do():
    async with client(app_that()) as http:
        answer = await http.delete("/thing/a")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, PUT")
    assert answer.json()["code"] == "method-not-allowed"


async def test_every_answer_carries_a_correlation_id_and_safe_headers():
    async with client(app_that()) as http:
        first, second = await http.get("/thing/a"), await http.get("/nowhere")
    for answer in (first, second):
        assert len(answer.headers["Quantum-Correlation-Id"]) == 36
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert first.headers["Quantum-Correlation-Id"] != second.headers["Quantum-Correlation-Id"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "{}", "a\tb", "\xe9"])
async def test_a_correlation_id_that_is_not_fit_to_be_logged_is_replaced(given: str):
    async with client(app_that()) as http:
        answer = await http.get("/thing/a", headers={"Quantum-Correlation-Id": given.encode("latin-1")})
    assert answer.headers["Quantum-Correlation-Id"] != given


async def test_a_body_at_the_limit_passes_and_one_byte_more_does_not():
    async with client(app_that(request_bytes_max=1000)) as http:
        assert (await http.put("/thing/a", content=b"x" * 1000)).text == "1000"
        refused = await http.put("/thing/a", content=b"x" * 1001)
    assert (refused.status_code, refused.json()["code"]) == (413, "body-too-large")


async def test_a_body_that_hides_its_length_is_cut_off_as_well():
    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 100

    async with client(app_that(request_bytes_max=1000)) as http:
        answer = await http.put("/thing/a", content=pieces())
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


async def test_nothing_of_a_body_that_is_too_large_is_kept():
    sent: list[Any] = []
    chunks = iter([b"x" * 600] * 3)

    async def receive() -> dict[str, Any]:
        chunk = next(chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "PUT", "path": "/thing/a", "raw_path": b"/thing/a", "query_string": b"", "headers": [],
        "root_path": "", "scheme": "http", "server": ("test", 80), "client": None, "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app_that(request_bytes_max=1000)(scope, receive, send)
    assert sent[0]["status"] == 413
    assert next(chunks, None) is None  # read to its end, so that the client can hear the answer


def test_a_document_shows_a_bounded_number_of_faults():
    problem = Problem("validation-failed", "x", faults=[Fault("/a", "b")] * 5000)
    scope = {"type": "http", "path": "/x", "headers": []}
    assert len(orjson.dumps(document(Request(scope), problem))) < 100_000
