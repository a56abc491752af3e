# intent_ref: modules.catalogue
"""The modules that come with the platform, and the one way to call any module."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from domain.module import Module, Modules, Transport
from modules.contract import InProcessModule, Invocation, ModuleError, Plugins
from modules.http import HttpModules
from modules.results import storable
from modules.sandbox import Sandbox
from modules.schemas import Schemas

log = structlog.get_logger(__name__)


def in_process(http: HttpModules, *, sandbox: bool, plugins: Plugins | None = None) -> dict[str, InProcessModule]:
    """Everything that runs inside this process, by name: `http`, the sandbox where it is on, and the plug-ins."""
    found: dict[str, InProcessModule] = {http.module.name: http}
    if sandbox:
        box = Sandbox()
        found[box.module.name] = box
    return {**(plugins.found if plugins is not None else {}), **found}


def builtin(running: Mapping[str, InProcessModule]) -> Modules:
    """What every tenant can use without registering it: the modules of `in_process`."""
    return Modules({name: replace(part.module, transport=Transport("in-process", plugin=name)) for name, part in running.items()})


class Caller:
    """Calls a module wherever it is, and holds what goes in and comes out against the action's schemas."""

    def __init__(self, running: Mapping[str, InProcessModule], http: HttpModules) -> None:
        self._running, self._http, self._schemas = running, http, Schemas()

    async def call(self, module: Module, invocation: Invocation) -> Any:
        """The module's result as plain JSON; raises `ModuleError` and nothing else (but for being cancelled)."""
        action = module.action(invocation.action)
        if action is None:
            message = f"The module {module.name!r} has no action {invocation.action!r} any more."
            raise ModuleError("module-unavailable", message)
        self._schemas.check(
            action.input_schema, invocation.parameters, code="input-invalid", what="The step's parameters", retryable=False
        )  # fmt: skip
        try:
            result = storable(await self._reach(module, invocation))
        except ModuleError:
            raise
        except Exception as fault:
            log.warning("a module crashed", module=module.name, action=invocation.action, fault=type(fault).__name__)
            message = f"The module {module.name!r} crashed: {type(fault).__name__}: {str(fault)[:500]}"
            raise ModuleError("module-crashed", message) from fault
        self._schemas.check(action.output_schema, result, code="output-invalid", what="The module's result", retryable=True)
        return result

    async def _reach(self, module: Module, invocation: Invocation) -> Any:
        transport = module.transport
        if transport.kind == "http":
            if transport.url is None:
                raise ModuleError("module-unavailable", f"The module {module.name!r} has no URL.")
            return await self._http.ask(transport.url, invocation)
        plugin = self._running.get(transport.plugin or module.name)
        if plugin is None:
            raise ModuleError("module-unavailable", f"The module {module.name!r} is not installed in this process.")
        return await plugin.call(invocation)
