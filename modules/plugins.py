# intent_ref: modules.plugins
"""Modules that others install beside the platform, found by the entry-point group `quantum.modules`.

An entry point names a function without parameters that makes an `InProcessModule`. A broken one is named with its reason and
left out: it never stops the start.
"""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from inspect import iscoroutinefunction
from typing import Any

from domain.module import Action, Module
from domain.values import is_module_name
from modules.contract import BrokenPlugin, InProcessModule, Plugins

GROUP = "quantum.modules"


def load_plugins(found: Iterable[EntryPoint] | None = None, *, taken: frozenset[str] = frozenset()) -> Plugins:
    """The installed plug-ins. `taken` are names and actions that built-in modules have already."""
    plugins: dict[str, InProcessModule] = {}
    broken: list[BrokenPlugin] = []
    names_and_actions = set(taken)
    for point in sorted(entry_points(group=GROUP) if found is None else found, key=lambda point: point.name):
        try:
            plugin = _checked(point.load()(), names_and_actions)
        except Exception as fault:
            broken.append(BrokenPlugin(point.name, f"{point.value}: {type(fault).__name__}: {fault}"))
            continue
        plugins[plugin.module.name] = plugin
        names_and_actions.update({plugin.module.name, *(action.name for action in plugin.module.actions)})
    return Plugins(plugins, tuple(broken))


def _checked(plugin: Any, taken: set[str]) -> InProcessModule:
    module = getattr(plugin, "module", None)
    if not isinstance(module, Module) or not all(isinstance(action, Action) for action in module.actions):
        raise TypeError("it has no `module` of type domain.module.Module")
    if not iscoroutinefunction(getattr(plugin, "call", None)):
        raise TypeError("it has no `async def call(self, invocation)`")
    if not is_module_name(module.name):
        raise ValueError(f"{module.name!r} is not a module's name: lower-case letters, digits and inner . - _")
    if not module.actions:
        raise ValueError("it has no actions")
    if clash := sorted(taken.intersection({module.name, *(action.name for action in module.actions)})):
        raise ValueError(f"{clash[0]!r} belongs to another module already")
    checked: InProcessModule = plugin
    return checked
