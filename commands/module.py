# intent_ref: commands.module
"""What one may ask of a tenant's modules, and what then happens."""

from typing import Any, assert_never

import jsonschema_rs
from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.input_rules import module_faults
from domain.module import Action, ModuleChanged, ModuleEvent, ModuleRegistered, ModuleRemoved, Modules, Transport
from domain.refusals import ActionTaken, Fault, Invalid, ModuleNameTaken, NotFound, TooManyModules
from domain.values import ModuleName

MODULES_MAX = 200


class RegisterModule(BaseModel):
    """Let there be a module that carries out these actions."""

    model_config = ConfigDict(frozen=True)
    name: ModuleName
    actions: tuple[Action, ...]
    transport: Transport
    at: AwareDatetime


class ChangeModule(BaseModel):
    """Let the module have these actions and this transport from now on."""

    model_config = ConfigDict(frozen=True)
    name: ModuleName
    actions: tuple[Action, ...]
    transport: Transport
    at: AwareDatetime


class RemoveModule(BaseModel):
    """Let the module be gone; executions that began before still know it."""

    model_config = ConfigDict(frozen=True)
    name: ModuleName
    at: AwareDatetime


ModuleCommand = RegisterModule | ChangeModule | RemoveModule


def decide(state: Modules | None, command: ModuleCommand, builtin: Modules) -> list[ModuleEvent]:
    """What happens on `command`; nothing where the modules are that way already. No module may touch a built-in one.

    Raises `Invalid`, `ModuleNameTaken`, `ActionTaken`, `TooManyModules` or `NotFound`.
    """
    registered = state.by_name if state is not None else {}
    known = registered.get(command.name)
    match command:
        case RegisterModule():
            _check(command)
            if known is not None or command.name in builtin.by_name:
                raise ModuleNameTaken(command.name)
            if len(registered) >= MODULES_MAX:
                raise TooManyModules(MODULES_MAX)
            _check_actions_free(command, Modules(registered), builtin)
            return [ModuleRegistered(command.name, command.actions, command.transport, command.at)]
        case ChangeModule():
            _check_own(command.name, builtin)
            if known is None:
                raise NotFound("module", command.name)
            _check(command)
            if (known.actions, known.transport) == (command.actions, command.transport):
                return []
            _check_actions_free(command, Modules(registered), builtin)
            return [ModuleChanged(command.name, command.actions, command.transport, command.at)]
        case RemoveModule():
            _check_own(command.name, builtin)
            if known is None:
                raise NotFound("module", command.name)
            return [ModuleRemoved(command.name, command.at)]
        case _:
            assert_never(command)


def _check_own(name: str, builtin: Modules) -> None:
    if name in builtin.by_name:
        raise Invalid([Fault("/name", f"The module {name!r} is built in: it can be neither changed nor removed.", "built-in")])


def _check(command: RegisterModule | ChangeModule) -> None:
    faults = module_faults(command.name, command.actions, command.transport)
    if not faults:
        faults = [
            fault
            for index, action in enumerate(command.actions)
            for key, schema in (("input_schema", action.input_schema), ("output_schema", action.output_schema))
            if schema is not None
            for fault in _schema_faults(schema, f"/actions/{index}/{key}")
        ]
    if faults:
        raise Invalid(faults)


def _schema_faults(schema: dict[str, Any], place: str) -> list[Fault]:
    """Why this is no JSON Schema that can be used here. One that refers to another document cannot: nothing is ever fetched."""
    try:
        jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch, pattern_options=jsonschema_rs.RegexOptions())
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as fault:
        reason = str(fault).partition("\n")[0][:200]
        return [Fault(place, f"This is not a JSON Schema that can be used: {reason}", "invalid-schema")]
    return []


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; put what it refers to under $defs")


def _check_actions_free(command: RegisterModule | ChangeModule, registered: Modules, builtin: Modules) -> None:
    """An action has one module, or a step would not say who carries it out."""
    owners = {
        action.name: module.name
        for modules in (registered, builtin)
        for module in modules.by_name.values()
        for action in module.actions
    }
    for action in command.actions:
        owner = owners.get(action.name, command.name)
        if owner != command.name:
            raise ActionTaken(action.name, owner)
