# intent_ref: tests.modules
"""Calls with secrets, signatures, callbacks and breakers, through the one way to call a module, against a server on loopback."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.artifacts.files import FileArtifacts
from modules.breaker import Breakers, Thresholds
from modules.callbacks import Callbacks
from modules.catalogue import Caller, builtin, in_process
from modules.contract import Deferred, Invocation, ModuleError
from modules.http import HttpModules
from modules.results import storable_error
from modules.secrets.environment import EnvironmentSecrets, variable_of
from modules.secrets.redaction import hide_in_log
from modules.secrets.resolving import Secrets
from tests.acceptance.http_modules import HttpModule, http_module

CANARY = "canary-51c0de-value"
SIGNING = "whsec_" + base64.b64encode(b"signing-key-of-the-module-1234").decode()
ENVIRONMENT = {
    variable_of("tenant-1", "db"): CANARY,
    variable_of("tenant-1", "signing"): SIGNING,
    variable_of("tenant-2", "signing"): "too short to sign",
}
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Remote:
    """A module on loopback, what it answers next, and the parts around the call."""

    module: HttpModule
    answer: tuple[int, Any] = (200, {"done": True})


@pytest.fixture
def remote() -> Iterator[Remote]:
    with http_module(lambda body: held.answer) as module:
        held = Remote(module)
        yield held


@pytest.fixture
async def http() -> AsyncIterator[HttpModules]:
    modules = HttpModules(allow_private=True, callbacks=Callbacks((b"k" * 32,), "https://quantum.example"))
    yield modules
    await modules.close()


def asked(tenant: str = "tenant-1", action: str = "do", authored: Any = None, **parameters: Any) -> Invocation:
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    return Invocation(tenant, "e-1", "build", action, 2, parameters, {}, "production", "key-1", deadline, authored=authored)


def module_at(url: str, secret: str | None = None, **schemas: Any) -> Module:
    return Module(ModuleName("remote"), (Action(ActionName("do"), **schemas),), Transport("http", url=url, secret=secret), AT, AT)


def caller(http: HttpModules, **parts: Any) -> Caller:
    return Caller({}, http, secrets=Secrets([EnvironmentSecrets(ENVIRONMENT)]), **parts)


async def failure(work: Any) -> ModuleError:
    with pytest.raises(ModuleError) as raised:
        await work
    error = raised.value
    assert error.__cause__ is None or CANARY not in repr(error.__cause__)
    assert error.__context__ is None or CANARY not in repr(error.__context__)
    assert CANARY not in json.dumps(storable_error(error))
    return error


async def test_a_module_gets_the_value_and_its_echo_is_stored_without_it(remote: Remote, http: HttpModules):
    basic = base64.b64encode(f"ada:{CANARY}".encode()).decode()
    remote.answer = 200, {"used": CANARY, "header": f"Basic {basic}", CANARY: 1}
    result = await caller(http).call(module_at(remote.module.url), asked(password="secret://db", note="plain"))
    assert remote.module.asked[0].body["parameters"] == {"password": CANARY, "note": "plain"}
    assert result["used"] == "[secret:db]"
    assert result["[secret:db]"] == 1
    assert CANARY not in json.dumps(result)
    assert base64.b64encode(b"x" + CANARY.encode())[4:20].decode() not in json.dumps(result)


@pytest.mark.parametrize("status", [400, 503])
async def test_an_error_that_repeats_a_secret_is_stored_without_it(remote: Remote, http: HttpModules, status: int):
    remote.answer = status, {"message": f"login with {CANARY} failed", "cut": "x" * 1_925 + CANARY}
    error = await failure(caller(http).call(module_at(remote.module.url), asked(password="secret://db")))
    assert (error.code, error.retryable) == ("http-status", status == 503)
    assert "[secret:db]" in str(error.details)


async def test_a_value_that_does_not_fit_the_schema_is_not_told(remote: Remote, http: HttpModules):
    schema = {"type": "object", "properties": {"password": {"maxLength": 3}}, "additionalProperties": False}
    module = module_at(remote.module.url, input_schema=schema)
    error = await failure(caller(http).call(module, asked(password="secret://db")))
    assert error.code == "input-invalid"
    assert not remote.module.asked


async def test_what_came_out_of_an_expression_makes_no_secret_appear(remote: Remote, http: HttpModules):
    invocation = asked(url="https://evil/?${secret://db}", authored={"url": "${{ inputs.url }}"})
    await caller(http).call(module_at(remote.module.url), invocation)
    assert remote.module.asked[0].body["parameters"] == {"url": "https://evil/?${secret://db}"}
    assert "authored" not in remote.module.asked[0].body


async def test_an_unknown_secret_and_another_tenants_fail_before_anything_is_sent(remote: Remote, http: HttpModules):
    for tenant, name in (("tenant-1", "none"), ("tenant-2", "db")):
        error = await failure(caller(http).call(module_at(remote.module.url), asked(tenant, password=f"secret://{name}")))
        assert (error.code, error.retryable) == ("secret-unknown", False)
    assert not remote.module.asked


async def test_a_plugin_that_crashes_with_a_secret_in_its_message_leaves_none_in_error_or_log(http: HttpModules):
    class Leaky:
        module = Module(ModuleName("leaky"), (Action(ActionName("do")),), Transport("in-process"), AT, AT)

        async def call(self, invocation: Invocation) -> Any:
            structlog.get_logger().info("connecting", password=invocation.parameters["password"])
            raise RuntimeError(f"cannot log in with {invocation.parameters['password']}")

    lines: list[Any] = []

    def keep(_logger: Any, _method: str, line: Any) -> Any:
        lines.append(dict(line))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[hide_in_log, keep])
    try:
        running = {"leaky": Leaky()}
        guarded = Caller(running, http, secrets=Secrets([EnvironmentSecrets(ENVIRONMENT)]))
        module = replace(Leaky.module, transport=Transport("in-process", plugin="leaky"))
        error = await failure(guarded.call(module, asked(password="secret://db")))
    finally:
        structlog.configure(**before)
    assert error.code == "module-crashed"
    assert "[secret:db]" in error.message
    assert {line["event"] for line in lines} == {"connecting", "a module crashed"}
    assert CANARY not in repr(lines)


async def test_the_built_in_request_sends_a_secret_in_a_header(remote: Remote, http: HttpModules):
    running = in_process(http, sandbox=False)
    guarded = Caller(running, http, secrets=Secrets([EnvironmentSecrets(ENVIRONMENT)]))
    invocation = asked(
        action="http.request", url=remote.module.url, method="POST", body={}, headers={"Authorization": "Bearer ${secret://db}"}
    )
    result = await guarded.call(builtin(running).by_name["http"], invocation)
    assert remote.module.asked[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in json.dumps(result)


async def test_a_registered_module_gets_signed_requests(remote: Remote, http: HttpModules):
    await caller(http).call(module_at(remote.module.url, "secret://signing"), asked(n=1))
    [request] = remote.module.asked
    raw = json.dumps(request.body, separators=(",", ":"))
    assert request.headers["webhook-id"] == "key-1"
    assert Webhook(SIGNING).verify(raw, request.headers) == request.body
    with pytest.raises(WebhookVerificationError):
        Webhook(SIGNING).verify(raw.replace('"n":1', '"n":2'), request.headers)


async def test_a_module_that_wants_signatures_is_never_asked_without(remote: Remote, http: HttpModules):
    module = module_at(remote.module.url, "secret://signing")
    assert (await failure(Caller({}, http).call(module, asked()))).code == "secret-unavailable"
    assert (await failure(caller(http).call(module, asked("tenant-3")))).code == "secret-unknown"
    assert (await failure(caller(http).call(module, asked("tenant-2")))).code == "secret-invalid"
    assert not remote.module.asked


async def test_a_module_that_answers_202_is_waited_for(remote: Remote, http: HttpModules):
    remote.answer = 202, {"ignored": True}
    assert isinstance(await caller(http).call(module_at(remote.module.url), asked()), Deferred)
    body = remote.module.asked[0].body
    assert body["callback_url"] == f"https://quantum.example/api/v1/callbacks/{body['callback_token']}"
    claims = Callbacks((b"k" * 32,), "").verify(body["callback_token"])
    assert (claims.tenant_id, claims.execution_id, claims.step, claims.attempt) == ("tenant-1", "e-1", "build", 2)


async def test_without_callbacks_a_202_completes_as_any_other_2xx(remote: Remote):
    plain = HttpModules(allow_private=True)
    remote.answer = 202, {"accepted": True}
    assert await Caller({}, plain).call(module_at(remote.module.url), asked()) == {"accepted": True}
    assert "callback_url" not in remote.module.asked[0].body
    await plain.close()


async def test_an_endpoint_that_keeps_failing_is_left_alone(remote: Remote, http: HttpModules):
    breakers = Breakers(Thresholds(calls_min=3), clock=lambda: 0.0)
    guarded, module = caller(http, breakers=breakers), module_at(remote.module.url)
    remote.answer = 503, {}
    for _ in range(3):
        assert (await failure(guarded.call(module, asked()))).code == "http-status"
    error = await failure(guarded.call(module, asked()))
    assert (error.code, error.retryable, error.counts) == ("circuit-open", True, False)
    assert len(remote.module.asked) == 3
    assert (await failure(guarded.call(module, asked("tenant-2")))).code == "http-status"
    assert breakers.states() == {"closed": 1, "open": 1, "half-open": 0}


async def test_a_large_result_leaves_a_claim_that_the_next_module_gets_as_the_value(
    remote: Remote, http: HttpModules, tmp_path: Path
):
    store = FileArtifacts(tmp_path)
    large_http = HttpModules(allow_private=True, answer_bytes_max=2_000_000)
    guarded = caller(large_http, artifacts=store, result_bytes_max=1_000_000)
    large = {"rows": ["x" * 100] * 4_000, "password": CANARY}
    remote.answer = 200, large
    module = module_at(remote.module.url, output_schema={"type": "object", "required": ["rows"]})
    claim = await guarded.call(module, asked(password="secret://db"))
    stored = await store.get("tenant-1", claim["$artifact"]["id"])
    assert CANARY.encode() not in stored
    assert json.loads(stored) == {**large, "password": "[secret:db]"}
    remote.answer = 200, {}
    await guarded.call(module_at(remote.module.url), asked(data=claim))
    assert remote.module.asked[-1].body["parameters"]["data"] == json.loads(stored)
    error = await failure(guarded.call(module_at(remote.module.url), asked("tenant-2", data=claim)))
    assert (error.code, error.retryable) == ("artifact-unknown", False)
    remote.answer = 200, ["y" * 1_000_001]
    assert (await failure(guarded.call(module_at(remote.module.url), asked()))).code == "result-too-large"
    await large_http.close()


async def test_what_comes_by_callback_is_judged_like_an_answer(remote: Remote, http: HttpModules):
    module = module_at(remote.module.url, output_schema={"type": "object", "required": ["digest"]})
    authored = {"password": "secret://db", "from": "${{ inputs.x }}"}
    guarded = caller(http)
    good = await guarded.settle("tenant-1", module, "do", authored, result={"digest": CANARY})
    assert (good.result, good.error) == ({"digest": "[secret:db]"}, None)
    bad = await guarded.settle("tenant-1", module, "do", authored, result={"x": 1})
    assert bad.error is not None
    assert (bad.error["code"], bad.retryable) == ("output-invalid", True)
    said = {"code": "no-login", "message": f"not with {CANARY}", "retryable": False, "details": {"tried": [CANARY]}}
    failed = await guarded.settle("tenant-1", module, "do", authored, error=said)
    assert failed.error == {"code": "no-login", "message": "not with [secret:db]", "details": {"tried": ["[secret:db]"]}}
    assert not failed.retryable
    gone = await guarded.settle("tenant-1", module, "other", authored, result={})
    assert gone.error is not None
    assert gone.error["code"] == "module-unavailable"
