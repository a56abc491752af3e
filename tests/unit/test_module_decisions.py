# intent_ref: commands.module
"""What may be asked of a tenant's modules."""

from functools import partial
from typing import Any

import pytest

from commands.module import MODULES_MAX, ChangeModule, RegisterModule, RemoveModule, decide
from domain.module import Action, ModuleChanged, ModuleRegistered, ModuleRemoved, Modules, RetryPolicy, Transport, evolve
from domain.refusals import ActionTaken, Invalid, ModuleNameTaken, NotFound, TooManyModules
from domain.values import ActionName, ModuleName
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, NO_MODULES, after, modules_of

BUILTIN = modules_of(sandbox=("build",))
modules: Decider[Modules] = Decider(evolve, partial(decide, builtin=BUILTIN))
WEB = Transport("http", url="https://mail.example.test/actions")
MAIL, SHIP = ModuleName("mail"), ModuleName("ship.azure")


def action(name: str = "send", **fields: Any) -> Action:
    return Action(ActionName(name), **fields)


def register(name: str = MAIL, *actions: Action, transport: Transport = WEB) -> RegisterModule:
    return RegisterModule(name=ModuleName(name), actions=actions or (action(),), transport=transport, at=AT)


REGISTERED = ModuleRegistered(MAIL, (action(),), WEB, AT)


def test_a_module_is_registered_once() -> None:
    modules.given().when(register()).then(REGISTERED).when(register()).then_refused(ModuleNameTaken, name=MAIL)
    modules.given(REGISTERED, ModuleRemoved(MAIL, AT)).when(register()).then(REGISTERED)


def test_an_action_has_one_module() -> None:
    modules.given(REGISTERED).when(register(SHIP)).then_refused(ActionTaken, action="send", module=MAIL)
    modules.given().when(register(SHIP, action("build"))).then_refused(ActionTaken, action="build", module="sandbox")
    shipped = ModuleRegistered(SHIP, (action("ship"),), WEB, AT)
    grabbing = ChangeModule(name=SHIP, actions=(action("ship"), action("send")), transport=WEB, at=AT)
    modules.given(REGISTERED, shipped).when(grabbing).then_refused(ActionTaken, action="send", module=MAIL)


def test_an_action_is_free_again_when_its_module_lets_it_go() -> None:
    changed = ModuleChanged(MAIL, (action("post"),), WEB, AT)
    expected = ModuleRegistered(SHIP, (action(),), WEB, AT)
    modules.given(REGISTERED, changed).when(register(SHIP)).then(expected)
    modules.given(REGISTERED, ModuleRemoved(MAIL, AT)).when(register(SHIP)).then(expected)


def test_a_module_changes_when_something_changes() -> None:
    change = ChangeModule(name=MAIL, actions=(action(timeout_seconds=5.0),), transport=WEB, at=after(1))
    changed = ModuleChanged(MAIL, (action(timeout_seconds=5.0),), WEB, after(1))
    modules.given(REGISTERED).when(change).then(changed).when(change).then_nothing()


def test_a_change_is_judged_like_a_registration() -> None:
    change = ChangeModule(name=MAIL, actions=(), transport=Transport("http", url="mail"), at=AT)
    modules.given(REGISTERED).when(change).then_faults(
        Invalid, ("/actions", "invalid-actions"), ("/transport/url", "invalid-url")
    )


@pytest.mark.parametrize("retry", [RetryPolicy(1, 1.0, 1.0, 1.0), RetryPolicy(100, 86_400.0, 100.0, 86_400.0)])
def test_bounds_of_a_retry_policy_are_within_it(retry: RetryPolicy) -> None:
    bound = action(retry=retry, timeout_seconds=86_400.0)
    modules.given().when(register(MAIL, bound)).then(ModuleRegistered(MAIL, (bound,), WEB, AT))
    over = action(timeout_seconds=86_400.5)
    modules.given().when(register(MAIL, over)).then_faults(Invalid, ("/actions/0/timeout", "invalid-duration"))


def test_a_module_is_removed_once() -> None:
    remove = RemoveModule(name=MAIL, at=after(1))
    removed = modules.given(REGISTERED).when(remove).then(ModuleRemoved(MAIL, after(1)))
    removed.when(remove).then_refused(NotFound, kind="module", identity=MAIL)


def test_a_module_that_is_not_there_can_be_neither_changed_nor_removed() -> None:
    change = ChangeModule(name=MAIL, actions=(action(),), transport=WEB, at=AT)
    for command in (change, RemoveModule(name=MAIL, at=AT)):
        modules.given().when(command).then_refused(NotFound, kind="module", identity=MAIL)


def test_built_in_modules_are_out_of_reach() -> None:
    sandbox = ModuleName("sandbox")
    change = ChangeModule(name=sandbox, actions=(action(),), transport=WEB, at=AT)
    modules.given().when(register(sandbox)).then_refused(ModuleNameTaken, name=sandbox)
    for command in (change, RemoveModule(name=sandbox, at=AT)):
        modules.given().when(command).then_faults(Invalid, ("/name", "built-in"))


def test_a_tenant_has_a_limited_number_of_modules() -> None:
    past = [ModuleRegistered(ModuleName(f"m{n}"), (action(f"a{n}"),), WEB, AT) for n in range(MODULES_MAX)]
    modules.given(*past).when(register()).then_refused(TooManyModules, limit=MODULES_MAX)
    modules.given(*past[1:]).when(register()).then(REGISTERED)


@pytest.mark.parametrize("name", ["", "Mail", "a b", "-a", "a.", "é", "x" * 101, "a\n"])
def test_a_modules_name_has_a_form(name: str) -> None:
    modules.given().when(register(name)).then_faults(Invalid, ("/name", "invalid-name"))


def test_every_fault_of_a_module_is_reported_at_once() -> None:
    broken = action("no name!", timeout_seconds=0.0, retry=RetryPolicy(0), input_schema={"title": "a\0b"})
    command = register("Mail", action(), action(), broken, transport=Transport("http"))
    modules.given().when(command).then_faults(
        Invalid,
        ("/name", "invalid-name"),
        ("/actions/1/name", "duplicate-action"),
        ("/actions/2/name", "invalid-name"),
        ("/actions/2/input_schema/title", "unstorable"),
        ("/actions/2/timeout", "invalid-duration"),
        ("/actions/2/retry", "invalid-retry"),
        ("/transport/url", "missing"),
    )


def test_a_module_has_actions_and_not_too_many() -> None:
    many = tuple(action(f"a{n}") for n in range(201))
    for actions in ((), many):
        command = RegisterModule(name=MAIL, actions=actions, transport=WEB, at=AT)
        modules.given().when(command).then_faults(Invalid, ("/actions", "invalid-actions"))
    modules.given().when(register(MAIL, *many[:200])).then(ModuleRegistered(MAIL, many[:200], WEB, AT))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (None, "missing"),
        ("", "missing"),
        ("mail", "invalid-url"),
        ("ftp://mail.test/", "invalid-url"),
        ("file:///etc/passwd", "invalid-url"),
        ("http:///path", "invalid-url"),
        ("http://[::1/", "invalid-url"),
        ("http://mail.test:99999/", "invalid-url"),
        ("http://mail.test:0/", "invalid-url"),
        ("http://mail.test/a b", "invalid-url"),
        ("http://mail.test/\n", "invalid-url"),
        ("http://mäil.test/", "invalid-url"),
        ("http://m.test/" + "x" * 2_000, "invalid-url"),
        ("http://user@mail.test/", "secret"),
        ("http://user:word@mail.test/", "secret"),
        ("https://mail.test/?sig=" + "a1B2" * 10, "secret"),
    ],
)
def test_an_http_module_has_a_url_without_secrets(url: str | None, code: str) -> None:
    modules.given().when(register(transport=Transport("http", url=url))).then_faults(Invalid, ("/transport/url", code))


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://mail.test/a?b=c", "http://[::1]:80/x", "http://10.0.0.1/"])
def test_an_http_module_may_be_anywhere_that_has_an_address(url: str) -> None:
    transport = Transport("http", url=url)
    modules.given().when(register(transport=transport)).then(ModuleRegistered(MAIL, (action(),), transport, AT))


def test_an_in_process_module_names_its_plug_in() -> None:
    for plugin in (None, "", "No Plugin"):
        command = register(transport=Transport("in-process", plugin=plugin))
        modules.given().when(command).then_faults(Invalid, ("/transport/plugin", "missing"))
    named = Transport("in-process", plugin="mailer")
    modules.given().when(register(transport=named)).then(ModuleRegistered(MAIL, (action(),), named, AT))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"$schema": "http://127.0.0.1:1/x"},
        {"$ref": "#/$defs/no"},
        {"pattern": "("},
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    modules.given().when(register(MAIL, action(output_schema=schema))).then_faults(
        Invalid, ("/actions/0/output_schema", "invalid-schema")
    )


def test_a_schema_may_refer_to_itself() -> None:
    schema = {"$defs": {"name": {"type": "string"}}, "properties": {"password": {"$ref": "#/$defs/name"}}}
    described = action(input_schema=schema, retry=RetryPolicy(100, 0.5, 1.0, 0.5), timeout_seconds=86_400.0)
    modules.given().when(register(MAIL, described)).then(ModuleRegistered(MAIL, (described,), WEB, AT))


@pytest.mark.parametrize(
    "retry",
    [
        RetryPolicy(0), RetryPolicy(101), RetryPolicy(2, 0.0), RetryPolicy(2, 10.0, 2.0, 5.0), RetryPolicy(2, 1.0, 0.5),
        RetryPolicy(2, 1.0, 101.0), RetryPolicy(2, 1.0, float("nan")), RetryPolicy(2, 1.0, 2.0, float("inf")),
    ],
)  # fmt: skip
def test_a_retry_policy_out_of_bounds_is_refused(retry: RetryPolicy) -> None:
    modules.given().when(register(MAIL, action(retry=retry))).then_faults(Invalid, ("/actions/0/retry", "invalid-retry"))


def test_without_built_in_modules_every_name_is_free() -> None:
    bare: Decider[Modules] = Decider(evolve, partial(decide, builtin=NO_MODULES))
    expected = ModuleRegistered(ModuleName("sandbox"), (action("build"),), WEB, AT)
    bare.given().when(register("sandbox", action("build"))).then(expected)
