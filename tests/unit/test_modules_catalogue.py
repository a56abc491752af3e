# intent_ref: tests.modules
"""What comes with the platform, which plug-ins are accepted, and what may pass in and out of a module."""

from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.addresses import is_public
from modules.catalogue import Caller, builtin, in_process
from modules.contract import Invocation, ModuleError, Plugins
from modules.http import HttpModules
from modules.plugins import GROUP, load_plugins
from modules.results import storable
from modules.schemas import Schemas

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Plugin:
    """A plug-in as another distribution would bring it."""

    def __init__(self, name: str = "greeter", action: str = "greet") -> None:
        self.module = Module(ModuleName(name), (Action(ActionName(action)),), Transport("in-process"), AT, AT)

    async def call(self, invocation: Invocation) -> Any:
        return {"hello": invocation.parameters["who"]}


class WithoutCall:
    module = Plugin().module


def make() -> Plugin:
    return Plugin()


def make_clashing() -> Plugin:
    return Plugin("other", "greet")


def make_badly_named() -> Plugin:
    return Plugin("Not A Name", "x")


def make_without_call() -> WithoutCall:
    return WithoutCall()


def make_nothing() -> None:
    raise RuntimeError("no configuration")


def point(name: str, function: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{function}", GROUP)


def asked(**parameters: Any) -> Invocation:
    return Invocation("t", "e", "s", "greet", 1, parameters, {}, "target", "key", AT)


def test_the_sandbox_is_there_only_where_it_is_on() -> None:
    http = HttpModules()
    assert set(builtin(in_process(http, sandbox=True)).by_name) == {"http", "sandbox"}
    assert set(builtin(in_process(http, sandbox=False)).by_name) == {"http"}
    everything = builtin(in_process(http, sandbox=True))
    module = everything.with_action("deploy-to-kubernetes")
    assert module is not None
    assert module.transport == Transport("in-process", plugin="sandbox")


async def test_a_plugin_is_part_of_the_catalogue_and_is_called() -> None:
    http = HttpModules()
    running = in_process(http, sandbox=False, plugins=load_plugins([point("greeter", "make")]))
    module = builtin(running).by_name["greeter"]
    assert await Caller(running, http).call(module, asked(who="you")) == {"hello": "you"}


def test_a_broken_plugin_is_named_with_its_reason_and_stops_nobody() -> None:
    plugins = load_plugins(
        [
            point("a-good", "make"), point("b-missing", "not_there"), point("c-raises", "make_nothing"),
            point("d-clash", "make_clashing"), point("e-name", "make_badly_named"), point("f-call", "make_without_call"),
        ]
    )  # fmt: skip
    assert set(plugins.found) == {"greeter"}
    reasons = {broken.name: broken.reason for broken in plugins.broken}
    assert set(reasons) == {"b-missing", "c-raises", "d-clash", "e-name", "f-call"}
    assert "no configuration" in reasons["c-raises"]
    assert "'greet' belongs to another module" in reasons["d-clash"]


def test_a_plugin_cannot_take_a_built_in_modules_name() -> None:
    plugins = load_plugins([point("greeter", "make")], taken=frozenset({"greeter"}))
    assert not plugins.found
    assert plugins.broken[0].name == "greeter"


async def test_a_crash_becomes_an_error_without_a_stack_trace() -> None:
    http = HttpModules()
    running = in_process(http, sandbox=False, plugins=Plugins({"greeter": Plugin()}))
    with pytest.raises(ModuleError) as failure:
        await Caller(running, http).call(builtin(running).by_name["greeter"], asked())
    assert (failure.value.code, failure.value.retryable) == ("module-crashed", True)
    assert failure.value.message == "The module 'greeter' crashed: KeyError: 'who'"


async def test_a_module_or_action_that_is_not_there_is_unavailable() -> None:
    http = HttpModules()
    caller = Caller({}, http)
    for module in (Plugin().module, Plugin(action="another").module):
        with pytest.raises(ModuleError) as failure:
            await caller.call(module, asked())
        assert (failure.value.code, failure.value.retryable) == ("module-unavailable", True)


def test_schema_faults_name_their_places_and_not_the_values() -> None:
    schema = {"type": "object", "properties": {"list": {"items": {"type": "integer"}}}}
    with pytest.raises(ModuleError) as failure:
        Schemas().check(schema, {"list": [1, "hunter2"]}, code="input-invalid", what="It", retryable=False)
    assert failure.value.details["errors"][0]["pointer"] == "/list/1"
    assert "hunter2" not in str(failure.value.details)


@pytest.mark.parametrize(
    "schema", [{"$ref": "http://127.0.0.1:9/x.json"}, {"$ref": "file:///etc/passwd"}, {"type": "nonsense"}, {"pattern": "("}]
)
def test_a_wrong_schema_or_one_that_points_elsewhere_is_an_error_and_fetches_nothing(schema: dict[str, Any]) -> None:
    with pytest.raises(ModuleError) as failure:
        Schemas().check(schema, "a", code="input-invalid", what="It", retryable=False)
    assert failure.value.code == "schema-invalid"


def test_a_pattern_cannot_take_exponential_time() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    with pytest.raises(ModuleError):
        Schemas().check(schema, "a" * 5_000 + "!", code="input-invalid", what="It", retryable=False)


@pytest.mark.parametrize("result", [None, 1, "text \\u0000 as text", [1, {"a": "ü"}], {"at": "2026"}])
def test_json_values_can_be_stored(result: Any) -> None:
    assert storable(result) == result


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({1, 2}, "result-invalid"),
        ({1: "a"}, "result-invalid"),
        ("\ud800", "result-invalid"),
        (2**70, "result-invalid"),
        ({"a\0": 1}, "result-invalid"),
        (["\0"], "result-invalid"),
        ("x" * 262_143, "result-too-large"),
    ],
)
def test_what_is_not_json_or_too_large_cannot(result: Any, code: str) -> None:
    with pytest.raises(ModuleError) as failure:
        storable(result)
    assert (failure.value.code, failure.value.retryable) == (code, False)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
     "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe"],
)  # fmt: skip
def test_an_address_inside_is_not_public_however_it_is_written(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"])
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)
