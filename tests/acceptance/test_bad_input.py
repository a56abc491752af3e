# intent_ref: tests.bad-input
"""Whatever a client can send gets the contract's problem document, never a 5xx, and writes nothing where it is refused."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from access.issuer import LocalIssuer
from tests.api_probe import (
    METHODS,
    Operation,
    assert_problem,
    operations_of,
    places,
    raw_json,
    renamed,
    replaced,
    tells_nothing,
    value_at,
)
from tests.conftest import Database
from tests.http_platform import API, Http, serving

WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, -1e308, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63) - 1, 10**30, "", " ", "\n",
    "x" * 70_000, "\u202e", "💥", "${{ secrets.x }}", "../../etc/passwd", "'; DROP TABLE quantum.events; --", [], {}, [[]],
    [None], [{}], {"": ""}, {"a": {"b": [1]}}, {"action": "no-op"}, ["no-op"] * 1000,
)  # fmt: skip
ODD_STRINGS = ("\0", "a\0b", "\ud800", "a\udfffb", "\udc00\ud800")


class Probe:
    """Sends what should be refused, in the name of a tenant that has one of everything."""

    def __init__(self, http: Http, operations: list[Operation], tenant_id: str) -> None:
        self.http, self.operations, self.tenant_id = http, operations, tenant_id
        self.values: dict[str, str] = {}
        self.headers = http.bearer(tenant_id, roles=["platform-admin"])
        self._appends = self._position = -1

    @property
    def with_bodies(self) -> list[Operation]:
        """Those that take an object; where any JSON will do, tests of their own say what it does."""
        with_bodies = [operation for operation in self.operations if operation.body is not None and not operation.is_public]
        return [operation for operation in with_bodies if not operation.takes_anything]

    @property
    def one_of_each_body(self) -> list[Operation]:
        """Where the same code reads the same body, one operation stands for all."""
        return list({json.dumps(operation.body): operation for operation in self.with_bodies}.values())

    def operation(self, name: str) -> Operation:
        """The one of that method and path."""
        return next(operation for operation in self.operations if str(operation) == name)

    def address(self, operation: Operation, **values: str) -> str:
        return operation.path.format(**{**self.values, **values})

    async def send(self, operation: Operation, raw: bytes | None, **headers: str) -> httpx.Response:
        given = {"Content-Type": "application/json", "If-Match": "*", "Accept": "application/json", **self.headers, **headers}
        return await self.http.client.request(operation.method, self.address(operation), content=raw, headers=given)

    async def written(self) -> int:
        """How many events people, not sagas, have written since this was asked last."""
        store = self.http.platform.store
        if store.group_commit.statistics.appends == self._appends:
            return 0  # this process is the only one that writes
        self._appends = store.group_commit.statistics.appends
        rows = await store.platform_pool.fetch(
            "SELECT position, metadata ->> 'actor' AS actor FROM quantum.events WHERE position > $1 ORDER BY position",
            self._position,
        )  # fmt: skip
        self._position = rows[-1]["position"] if rows else self._position
        return sum(not row["actor"].startswith("saga:") for row in rows)

    @contextlib.asynccontextmanager
    async def nothing_written(self) -> AsyncIterator[None]:
        await self.written()
        yield
        assert await self.written() == 0, "something was written although it was refused"

    async def refused(self, operation: Operation, raw: bytes | None, *statuses: int, **headers: str) -> dict[str, Any]:
        async with self.nothing_written():
            return assert_problem(await self.send(operation, raw, **headers), *statuses)

    async def refused_or_obeyed(self, operation: Operation, raw: bytes) -> None:
        """For what some operations may take: an answer that is documented, and nothing written where it is a refusal."""
        await self.written()
        answer = await self.send(operation, raw)
        if answer.status_code >= 400:
            assert_problem(answer, *operation.statuses)
            assert await self.written() == 0
        else:
            assert answer.status_code in operation.statuses, (str(operation), answer.status_code)


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture(scope="module")
async def operations(http: Http) -> list[Operation]:
    return operations_of((await http.client.get("/openapi.json")).json())


@pytest.fixture(scope="module")
async def probe(http: Http, operations: list[Operation]) -> Probe:
    tenant, suspended = await http.tenant(), await http.tenant()
    probe = Probe(http, operations, tenant.id)
    intent = await tenant.intent("deploy")
    module = {"name": "mine", "actions": [{"name": f"act-{tenant.id}"}], "transport": "https://example.com/actions"}
    registered = await tenant.post("/modules", module)
    assert registered.status_code == 201, registered.text
    execution_id = await tenant.execution()
    await tenant.get("/modules", after=registered)
    probe.values = {
        "intent_id": intent.json()["id"], "execution_id": execution_id, "name": "mine", "version": "1", "tenant_id": suspended.id,
        "type": "quantum.intent.created.v1", "position": registered.headers["Quantum-Position"],
        "token": "of-nobody", "artifact_id": "0" * 64, "step": "no-op", "signal": "go",
        "subscription_id": "nobody", "lease_token": "of-nobody",
    }  # fmt: skip
    return probe


async def test_every_path_parameter_has_a_value_here(probe: Probe):
    assert {name for operation in probe.operations for name in operation.path_names} == probe.values.keys()
    assert len(probe.with_bodies) >= 14


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b'{"a":', b'{"a":1', b"nothing", b"\xff\xfe{\x00}\x00", b"\x00", b'{"a":NaN}', b'{"a":Infinity}', b"[-Infinity]",
        b'{"a":1e400}', b"{'a':1}", b'{"a":1}{', b'{"a":1} x', b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a":1,}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}', b'{"\xc0\x80":1}', b'{"a":"\t"}', b'{"a":"\\x"}', b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}',
        b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32"), b'{"a":/**/1}', b"<a/>", b"a=1&b=2",
        gzip.compress(b'{"a":1}', mtime=0), b"--x\r\n\r\n--x--", b" ", b"\n", b'{"a"}', b"{1:2}", b'"', b"[", b"]", b"}",
    ],
)  # fmt: skip
async def test_what_is_no_json_is_a_400_wherever_a_body_is_taken(probe: Probe, raw: bytes):
    for operation in probe.with_bodies:
        problem = await probe.refused(operation, raw, 400)
        assert problem["code"] == "not-json"


async def test_a_missing_body_is_refused_where_one_is_needed(probe: Probe):
    for operation in probe.with_bodies:
        if operation.body_required:
            await probe.refused(operation, b"", 400)


@pytest.mark.parametrize("raw", [b"null", b"true", b"1", b'"x"', b"[]", b"[{}]", b'[["a",1]]', b"1.5"])
async def test_json_that_is_no_object_is_a_422_wherever_a_body_is_taken(probe: Probe, raw: bytes):
    for operation in probe.with_bodies:
        problem = await probe.refused(operation, raw, 422)
        assert problem["errors"]


async def test_every_example_cut_short_anywhere_is_no_json(probe: Probe):
    for operation in probe.with_bodies:
        whole = raw_json(operation.body)
        for length in range(1, len(whole), max(1, len(whole) // 12)):
            await probe.refused(operation, whole[:length], 400)


async def test_a_wrong_value_at_any_place_of_any_body_is_obeyed_or_refused_by_the_book(probe: Probe):
    sent = 0
    for operation in probe.with_bodies:
        for place in places(operation.body):
            for wrong in WRONG:
                await probe.refused_or_obeyed(operation, raw_json(replaced(operation.body, place, wrong)))
                sent += 1
    assert sent > 1000


async def test_an_unknown_key_at_any_place_of_any_body_is_obeyed_or_refused_by_the_book(probe: Probe):
    for operation in probe.with_bodies:
        for place in places(operation.body):
            if isinstance(value_at(operation.body, place), dict):
                for key in ("__proto__", "", "a" * 5000, "tenant_id", "id", "when", "\u202e"):
                    await probe.refused_or_obeyed(operation, raw_json(replaced(operation.body, (*place, key), {"a": 1})))


@pytest.mark.parametrize("odd", ODD_STRINGS, ids=ascii)
async def test_nul_and_lone_surrogates_in_any_string_or_key_of_any_body_are_refused(probe: Probe, odd: str):
    for operation in probe.with_bodies:
        for place in places(operation.body):
            if isinstance(value_at(operation.body, place), str):
                await probe.refused(operation, raw_json(replaced(operation.body, place, odd)), 400, 422)
            if place and isinstance(place[-1], str):
                await probe.refused(operation, raw_json(renamed(operation.body, place, odd)), 400, 422)
        await probe.refused(operation, raw_json({odd: 1}), 400, 422)


@pytest.mark.parametrize("odd", ["%00", "%ff", "%ED%A0%80", "a%00b", "%C0%80", "%F4%90%80%80", "%0d%0aX-Evil:%201", "%E2%80%AE"])
async def test_odd_bytes_in_any_part_of_any_address_are_refused_or_find_nothing(probe: Probe, odd: str):
    for operation in probe.operations:
        for name in operation.path_names:
            async with probe.nothing_written():
                request = {"headers": {**probe.headers, "If-Match": "*"}}
                if operation.body is not None:
                    request["json"] = operation.body
                address = probe.address(operation, **{name: odd})
                refusals = (401, 404) if operation.is_public else (404, 422)  # there the address is the authority
                assert_problem(await probe.http.client.request(operation.method, address, **request), *refusals)  # type: ignore[arg-type]
        for name in operation.query_names:
            for query in (f"{name}={odd}", f"{odd}={odd}", f"{name}={odd}&{name}={odd}"):
                headers = {**probe.headers, "Accept": "application/json"}
                answer = await probe.http.client.request(operation.method, f"{probe.address(operation)}?{query}", headers=headers)
                assert "x-evil" not in answer.headers
                if answer.status_code != 200:
                    nothing_there = (404,) if operation.path_names else ()  # what the address names may be made up
                    assert_problem(answer, 400, 422, *nothing_there)


LATER = b"cTEuOTk5OTk5OTk5OTk5OTk5"
"""A sound position that no log has come to: a read waits for it."""
ODD_HEADERS = (
    b"\xff", b"\x80abc", b"\xed\xa0\x80", b"", b"a" * 300, b"a" * 20_000, b'"', b'W/"', b"*,*", b"-1", b"1e9", b"%00", b"q1.MQ",
    LATER, b"cTEu" * 9, "é".encode(), b'"1", "2"', b'W/"1"', b'"99999999999"',
)  # fmt: skip


async def test_odd_values_in_any_header_of_any_operation_do_no_harm(probe: Probe):
    async with probe.nothing_written():
        for number, operation in enumerate(probe.operations):
            general = ("Accept", "Content-Type", "traceparent", "tracestate", "Quantum-Correlation-Id", "Cookie", "Range")
            for name in (*operation.header_names, *(general if number % 6 == 0 else ())):
                for value in ODD_HEADERS:
                    if (name, value) != ("Quantum-Min-Position", LATER) or str(operation) == f"GET {API}/intents":
                        await _with_header(probe, operation, name.encode(), value)


async def _with_header(probe: Probe, operation: Operation, name: bytes, value: bytes) -> None:
    kept = {**probe.headers, "Accept": "application/json"}
    headers = [(key.encode(), one.encode()) for key, one in kept.items() if key.lower().encode() != name.lower()]
    nobody = {"intent_id": "nobody", "name": "nobody"} if operation.method == "DELETE" else {}
    answer = await probe.http.client.request(
        operation.method, probe.address(operation, **nobody), headers=[*headers, (name, value)],
        content=None if operation.body is None else b"[]",  # refused in any case: only what reads may succeed
    )  # fmt: skip
    if answer.status_code == 503:
        assert (name, answer.json()["code"]) == (b"Quantum-Min-Position", "not-caught-up")  # a position that may come yet
    elif answer.status_code >= 400:
        assert_problem(answer)
    assert operation.method == "GET" or answer.status_code >= 400


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
async def test_depth_bombs_are_refused_whole_and_cut_short(probe: Probe, opening: bytes, closing: bytes):
    for levels in (63, 200, 255, 1_000, 1_024, 1_025, 100_000):
        bomb = opening * levels + b"1" + closing * levels
        for operation in probe.with_bodies if levels == 100_000 else probe.one_of_each_body:
            for raw in (bomb, opening * levels, b'{"definition":' + bomb + b"}", b'{"inputs":{"a":' + bomb + b"}}"):
                if levels < 200:
                    await probe.refused_or_obeyed(operation, raw)
                else:
                    await probe.refused(operation, raw, 400, 422)
            if operation.body:
                await probe.refused(operation, raw_json(operation.body)[:-1] + b',"zzz":' + bomb + b"}", 400, 422)


async def test_bodies_over_the_limit_are_a_413_said_or_unsaid(probe: Probe):
    body = b'{"name":"' + b"x" * (10 << 20) + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), 1 << 16):
            yield body[begin : begin + (1 << 16)]

    for operation in probe.with_bodies:
        address = probe.address(operation)
        async with probe.nothing_written():
            assert_problem(await probe.send(operation, body), 413)
            headers = {**probe.headers, "If-Match": "*"}
            chunked = await probe.http.client.request(operation.method, address, content=chunks(), headers=headers)
            assert_problem(chunked, 413)
    for operation in probe.operations:
        if operation.body is None and not operation.is_public:
            # A body that nobody reads: the answer may come before it has been sent.
            with contextlib.suppress(httpx.TransportError):
                answer = await probe.http.client.request(
                    operation.method, probe.address(operation, intent_id="nobody", name="nobody"), content=body,
                    headers={**probe.headers, "Accept": "application/json"},
                )  # fmt: skip
                assert answer.status_code < 500


async def test_just_under_and_just_over_the_limit_are_told_apart(probe: Probe):
    limit = probe.http.platform.settings.request_bytes_max
    create = probe.operation(f"POST {API}/intents")
    empty = raw_json({"name": "a", "definition": ""})
    for size, status in ((limit, 422), (limit + 1, 413)):
        await probe.refused(create, raw_json({"name": "a", "definition": "x" * (size - len(empty))}), status)


async def test_a_body_full_of_small_things_is_refused_in_a_bounded_answer(probe: Probe):
    for filler in (b"1,", b"{},", b'"",', b'{"a":"\\u0000"},', b"99999999999999999999999,", b"null,"):
        inside = (filler * (1_000_000 // len(filler)))[:-1]
        for operation in probe.one_of_each_body:
            for raw in (b"[" + inside + b"]", b'{"definition":{"target":"t","steps":[' + inside + b']},"name":"n"}'):
                async with probe.nothing_written():
                    answer = await probe.send(operation, raw)
                    assert_problem(answer, 400, 422)
                    assert len(answer.content) < 1 << 20


async def test_many_keys_and_repeated_keys_do_no_harm(probe: Probe):
    for operation in probe.with_bodies:
        many = raw_json({f"k{number}": number for number in range(50_000)})
        await probe.refused(operation, many, 422)
        if operation.body:
            inside = raw_json(operation.body)[1:-1]
            await probe.refused_or_obeyed(operation, b"{" + inside + b"," + inside + b"}")


async def test_huge_numbers_are_refused_or_kept_exactly(probe: Probe):
    tenant_headers = {**probe.headers, "Content-Type": "application/json"}
    numbers = ["18446744073709551615", "-9223372036854775808", "1e308", "5e-324", "0.1", "123456789.123456789", "1e2", "-0.0"]
    definition = f'{{"target":"t","steps":[{{"action":"no-op","values":[{",".join(numbers)}]}}]}}'
    raw = f'{{"name":"numbers","definition":{definition}}}'.encode()
    created = await probe.http.client.post(f"{API}/intents", content=raw, headers=tenant_headers)
    assert created.status_code == 201, created.text
    assert created.json()["definition"] == json.loads(definition)
    headers = {**probe.headers, "Quantum-Min-Position": created.headers["Quantum-Position"]}
    shown = await probe.http.client.get(created.headers["Location"], headers=headers)
    assert shown.json()["definition"] == json.loads(definition)
    create = probe.operation(f"POST {API}/intents")
    for number in ("18446744073709551616", "-9223372036854775809", "1e309", "9" * 400, "9" * 100_000, "-" + "9" * 25):
        definition = f'{{"target":"t","steps":[{{"action":"no-op","n":{number}}}]}}'
        await probe.refused(create, f'{{"name":"huge","definition":{definition}}}'.encode(), 400, 422)


async def test_a_schema_that_doubles_its_work_at_each_reference_never_reaches_a_worker(probe: Probe):
    parts = {f"d{n}": {"oneOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**parts, "d40": {"type": "string"}}}
    for key in ("input_schema", "output_schema"):
        module = {"name": "bomb", "actions": [{"name": "bomb", key: schema}], "transport": "https://example.com/x"}
        problem = await probe.refused(probe.operation(f"POST {API}/modules"), raw_json(module), 422)
        assert problem["errors"][0]["pointer"] == f"/actions/0/{key}"


async def test_a_compressed_body_is_refused(probe: Probe):
    for operation in probe.with_bodies:
        for encoding in ("gzip", "deflate", "br"):
            raw = gzip.compress(raw_json(operation.body))
            await probe.refused(operation, raw, 400, 415, **{"Content-Encoding": encoding})


def _tokens(http: Http, tenant_id: str) -> dict[str, str]:
    """Tokens that prove nothing, by what is wrong with them."""
    issuer = http.platform.issuer
    good = issuer.issue([tenant_id], ["platform-admin"], "eve", 1)
    header, claims, signature = good.split(".")
    decoded_header, decoded = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, claims))
    keys = LocalIssuer.open(http.platform.settings.data_dir / "keys")
    other_key = LocalIssuer([OKPKey.generate_key("Ed25519")], audience=issuer.audience)

    def part(value: Any) -> str:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def at(seconds: float) -> LocalIssuer:
        moved = LocalIssuer.open(http.platform.settings.data_dir / "keys")
        moved._clock = lambda: time.time() + seconds
        return moved

    def with_hmac(key: bytes) -> str:
        signed = f"{part({**decoded_header, 'alg': 'HS256'})}.{claims}"
        return f"{signed}.{part(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"

    public = issuer.jwks()["keys"][0]
    pem = OKPKey.import_key(public).as_pem(private=False)
    embedded = OKPKey.generate_key("Ed25519").as_dict(private=False)
    forged = other_key.issue([tenant_id], ["platform-admin"], "eve", 1)
    return {
        "expired": at(-7200).issue([tenant_id], ["platform-admin"], "eve", 1),
        "of tomorrow": at(86400).issue([tenant_id], ["platform-admin"], "eve", 1),
        "another key": forged,
        "another key under our id": f"{header}.{'.'.join(forged.split('.')[1:])}",
        "another issuer": LocalIssuer(keys._keys, issuer="urn:evil").issue([tenant_id], ["platform-admin"], "eve", 1),
        "another audience": LocalIssuer(keys._keys, audience="else").issue([tenant_id], ["platform-admin"], "eve", 1),
        "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{claims}.",
        "alg None with the signature": f"{part({**decoded_header, 'alg': 'None'})}.{claims}.{signature}",
        "alg missing": f"{part({'typ': 'JWT', 'kid': public['kid']})}.{claims}.{signature}",
        "alg a list": f"{part({**decoded_header, 'alg': ['EdDSA']})}.{claims}.{signature}",
        "HS256 with the public key as PEM": with_hmac(pem),
        "HS256 with the public key's x": with_hmac(base64.urlsafe_b64decode(public["x"] + "==")),
        "HS256 with the JWK": with_hmac(json.dumps(public).encode()),
        "HS256 with nothing": with_hmac(b""),
        "its own key in the header": f"{part({**decoded_header, 'jwk': embedded})}.{claims}.{signature}",
        "a key to fetch": f"{part({**decoded_header, 'jku': 'http://127.0.0.1:9/x', 'kid': 'x'})}.{claims}.{signature}",
        "a kid that climbs": f"{part({**decoded_header, 'kid': '../../../../dev/null'})}.{claims}.{signature}",
        "a kid that is a number": f"{part({**decoded_header, 'kid': 1})}.{claims}.{signature}",
        "crit": f"{part({**decoded_header, 'crit': ['exp']})}.{claims}.{signature}",
        "unencoded payload": f"{part({**decoded_header, 'b64': False, 'crit': ['b64']})}.{claims}.{signature}",
        "changed claims": f"{header}.{part({**decoded, 'tenants': ['other']})}.{signature}",
        "claims that are a list": f"{header}.{part([])}.{signature}",
        "claims that are no JSON": f"{header}.{part(b'x')}.{signature}",
        "claims nested deep": f"{header}.{part(b'[' * 5000)}.{signature}",
        "a header that is no object": f"{part(1)}.{claims}.{signature}",
        "a header with NUL": part({"alg": "EdDSA\0"}) + f".{claims}.{signature}",
        "no signature": f"{header}.{claims}.",
        "half a signature": f"{header}.{claims}.{signature[:40]}",
        "another's signature": f"{header}.{claims}.{forged.split('.')[2]}",
        "cut short": good[:-10],
        "cut in the claims": good[: len(header) + 20],
        "two parts": f"{header}.{claims}",
        "five parts, as if encrypted": f"{header}.{claims}.{signature}.{claims}.{signature}",
        "dots": "..",
        "one letter": "a",
        "with a line break inside": good[:50] + "%0a" + good[50:],
        "standard alphabet": good.replace("-", "+").replace("_", "/") + "==",
        "100 KB": good + "A" * 100_000,
        "100 KB of dots": "." * 100_000,
        "not ASCII": "é" + good,
        "JSON serialisation": json.dumps({"payload": claims, "protected": header, "signature": signature}).replace(" ", ""),
    }


async def test_a_token_that_proves_nothing_opens_no_route(probe: Probe):
    tokens = _tokens(probe.http, probe.tenant_id)
    assert (await probe.send(probe.operations[0], None)).status_code == 200
    async with probe.nothing_written():
        for what, token in tokens.items():
            for operation in probe.operations if what in ("expired", "another key", "alg none") else probe.operations[:2]:
                if operation.is_public:
                    continue
                raw = None if operation.body is None else raw_json(operation.body)
                headers = [(b"Authorization", f"Bearer {token}".encode()), (b"If-Match", b"*")]
                answer = await probe.http.client.request(
                    operation.method, probe.address(operation), content=raw, headers=headers
                )  # fmt: skip
                problem = assert_problem(answer, 401)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer "), what
                assert len(token) < 20 or token not in json.dumps(problem)


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"bearer", b"Basic YTpi", b"Digest x", b"\xff", b"Bearer \xff\xfe", b"Bearer a b", b","],
)  # fmt: skip
async def test_an_authorization_header_that_is_no_bearer_token_is_a_401(probe: Probe, value: bytes):
    answer = await probe.http.client.get(f"{API}/intents", headers=[(b"Authorization", value)])
    assert_problem(answer, 401)


async def test_two_authorization_headers_do_not_add_up(probe: Probe):
    good = probe.headers["Authorization"].encode()
    for values in ((b"Bearer x", good), (good, b"Bearer x")):
        answer = await probe.http.client.get(f"{API}/intents", headers=[(b"Authorization", value) for value in values])
        assert answer.status_code in (200, 400, 401)
        tells_nothing(answer)


async def test_methods_that_do_not_apply_are_a_405_that_lists_those_that_do(probe: Probe):
    known: dict[str, set[str]] = {}
    for operation in probe.operations:
        known.setdefault(operation.path, set()).add(operation.method)
    async with probe.nothing_written():
        for path, own in known.items():
            address = path.format(**probe.values)
            # A fixed path may also be what another one has a variable for: `/executions/bulk`, `/executions/{execution_id}`.
            methods = set().union(*(known[other] for other in known if re.fullmatch(re.sub(r"{\w+}", "[^/]+", other), address)))
            for method in {
                *(one.upper() for one in METHODS),
                "PROPFIND",
                "SEARCH",
                "LINK",
                "PURGE",
                "CONNECT",
                "QUERY",
            } - methods:
                if method == "CONNECT":
                    continue  # an authority, not an address
                answer = await probe.http.client.request(method, address, headers=probe.headers)
                assert answer.status_code in (405, 400), (method, path, answer.status_code)
                if answer.status_code == 405:
                    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == own
                    if method != "HEAD":
                        assert_problem(answer)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/%20GET", "/api/v1/intents/%20GET", "/api/v1/intents/%7B%7D", "/api/v1/intents/%7Bintent_id%7D", "/api/v1//intents",
     "/api/v1/intents/", "/api/v1/intents//versions", "/api/v1/intents/a/b/c/d", "/api/v1/../v1/intents", "/api/v1/intents/..",
     "/api/v1/intents/%2e%2e/tenants", "/api/v1/intents/a%2Fversions", "/API/V1/intents", "/api/v1/intents;a=b",
     "/api/v2/intents",
     "/%2e%2e/%2e%2e/etc/passwd", "//evil.example/api/v1/intents", "/api/v1/intents/%20GET/versions", "/api/v1/executions/ GET",
     "/api/v1/intents/None", "/api/v1/intents/%25", "/api", "/", "/docs/x", "/metrics/x", "/api/v1/modules/%20DELETE"],
)  # fmt: skip
async def test_an_address_that_is_none_is_a_404(probe: Probe, path: str):
    for method in ("GET", "POST", "DELETE", "PUT"):
        if method == "DELETE" and path.startswith("/api/v1/modules"):
            continue
        status, headers, _body = await _raw(probe.http, method, path, {**probe.headers, "If-Match": "*"})
        assert status in (400, 404, 405), (method, path, status)
        assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("length", [256, 5_000, 60_000, 200_000])
async def test_very_long_addresses_are_refused(probe: Probe, length: int):
    for path in (f"{API}/intents/{'a' * length}", f"{API}/{'a/' * (length // 2)}", f"{API}/intents?{'q=a&' * (length // 4)}",
                 f"{API}/intents?q={'a' * length * 2}", f"{API}/intents?cursor={'A' * length}",
                 f"{API}/executions?{'%00' * length}=1",
                 f"{API}/tenants?{'&' * length}x=1"):  # fmt: skip
        status, headers, body = await _raw(probe.http, "GET", path, probe.headers)
        assert 400 <= status < 500, (path[:60], status)
        assert headers["content-type"] == "application/problem+json", (path[:60], body[:200])
        assert len(body) < 2 << 20


@pytest.mark.parametrize(
    "given",
    ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a%0d%0aX-Evil: 1", "a" * 129, "<script>", "a b", "é", "\x7f", "\x1b[31m", "{}", "'--"],
)
async def test_a_correlation_id_cannot_smuggle_anything(probe: Probe, given: str):
    status, headers, _body = await _raw(
        probe.http, "GET", f"{API}/intents", {**probe.headers, "Quantum-Correlation-Id": given}
    )  # fmt: skip
    assert status in (200, 400)
    assert "x-evil" not in headers
    if status == 200:
        assert headers["quantum-correlation-id"] != given


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: -1", "Content-Length: x", "Content-Length: 5, 6", "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 99999999999999999999999", "Content-Length: +5", "Content-Length: 0x5",
        "Transfer-Encoding: chunked\r\nContent-Length: 5", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked", "X\0Y: 1", "X-A: a\0b", "no colon", ": empty", " leading: blank",
    ],
)  # fmt: skip
async def test_framing_that_two_servers_could_read_differently_writes_nothing(probe: Probe, head: str):
    body = raw_json({"name": "smuggled", "definition": {"target": "t", "steps": []}})
    lines = ["POST /api/v1/intents HTTP/1.1", "Host: x", f"Authorization: {probe.headers['Authorization']}", head, "", ""]
    async with probe.nothing_written():
        answer = await _exchange(probe.http, "\r\n".join(lines).encode("latin-1") + body)
        assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 422")), answer[:300]
        assert not answer or b"\r\ncontent-type: application/problem+json\r\n" in answer


async def test_a_content_length_that_lies_writes_nothing_and_holds_nobody_up(probe: Probe):
    body = raw_json({"name": "lied", "definition": {"target": "t", "steps": []}})
    head = f"POST /api/v1/intents HTTP/1.1\r\nHost: x\r\nAuthorization: {probe.headers['Authorization']}\r\n"
    async with probe.nothing_written():
        for length in (len(body) + 1, len(body) + 100_000, len(body) - 1, 1, 0):
            await _exchange(probe.http, f"{head}Content-Length: {length}\r\n\r\n".encode() + body, half_close=True)
        for chunks in (b"ffffffffffffffffff\r\n", b"5\r\nab", b"-1\r\n", b"zz\r\n", b"5;" + b"a" * 100_000):
            await _exchange(probe.http, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks, half_close=True)
        assert (await probe.http.client.get(f"{API}/intents", headers=probe.headers)).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
STEP = st.dictionaries(
    st.sampled_from(
        ["action", "id", "depends_on", "timeout", "retry", "when", "compensate", "foreach", "workflow", "approval", "x"]
    ),
    st.sampled_from(["no-op", "wait", "5s", "", "0", "-1s", "9" * 30]) | JSON, max_size=6,
)  # fmt: skip
NEW_INTENT = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"name": st.text(max_size=20) | JSON,
         "definition": JSON | st.fixed_dictionaries(
             {"target": st.text(max_size=10) | JSON, "steps": JSON | st.lists(STEP, max_size=4)})},
        optional={"description": JSON, "labels": JSON | st.dictionaries(st.text(max_size=5), st.text(max_size=5)), "zzz": JSON},
    ),
)  # fmt: skip


@given(body=NEW_INTENT)
@settings(
    max_examples=80, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
async def test_any_json_creates_an_intent_that_reads_back_or_is_refused_by_the_book(probe: Probe, body: Any):
    create = probe.operation(f"POST {API}/intents")
    await probe.written()
    answer = await probe.send(create, raw_json(body))
    if answer.status_code != 201:
        assert_problem(answer, 400, 409, 422)
        assert await probe.written() == 0
        return
    assert await probe.written() == 1
    headers = {**probe.headers, "Quantum-Min-Position": answer.headers["Quantum-Position"]}
    shown = await probe.http.client.get(answer.headers["Location"], headers=headers)
    assert shown.json() == answer.json()


async def _raw(http: Http, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """A request whose address and headers no client library has cleaned up."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    answer = await _exchange(http, ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}, body


async def _exchange(http: Http, sent: bytes, *, half_close: bool = False) -> bytes:
    """What comes back for these bytes, until the server closes or says no more for a second."""
    address = urlsplit(http.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    came = b""
    try:
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            if half_close:
                writer.write_eof()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(2):
                while more := await reader.read(1 << 16):
                    came += more
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return came
