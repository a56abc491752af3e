# intent_ref: ground.given-when-then
"""Values that many decisions are tested with: times, a catalogue of actions, definitions."""

from datetime import UTC, datetime, timedelta
from typing import Any

from domain.definition import Limits, Rules
from domain.module import Action, Module, Modules, RetryPolicy, Transport
from domain.values import ActionName, ExecutionId, IntentId, ModuleName

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
INTENT = IntentId("0199-intent")
EXECUTION = ExecutionId("0199-execution")
RULES = Rules()
SMALL = Rules(Limits(steps_max=3, depth_max=6, value_bytes_max=64, definition_bytes_max=400, values_max=40))
PLUGIN = Transport("in-process", plugin="sandbox")


def after(seconds: float) -> datetime:
    """A moment later than `AT`."""
    return AT + timedelta(seconds=seconds)


def modules_of(**actions_by_module: tuple[str | Action, ...]) -> Modules:
    """A catalogue: module name -> its actions."""
    return Modules({
        ModuleName(name): Module(
            ModuleName(name),
            tuple(action if isinstance(action, Action) else Action(ActionName(action)) for action in actions),
            PLUGIN, AT, AT,
        )
        for name, actions in actions_by_module.items()
    })  # fmt: skip


PATIENT = Action(ActionName("patient"), timeout_seconds=7.5, retry=RetryPolicy(3, 2.0, 3.0, 5.0))
CATALOGUE = modules_of(
    sandbox=("build-docker-image", "push-to-registry", "deploy-to-kubernetes"),
    letters=("a", "b", "c", "d", "e"),
    patience=(PATIENT,),
)
NO_MODULES = Modules({})


def deployment() -> dict[str, Any]:
    """The definition of the tutorial."""
    return {
        "target": "production",
        "steps": [
            {"action": "build-docker-image", "image": "myapp:latest", "context": "./app"},
            {"action": "push-to-registry", "registry": "azurecr.io", "image": "myapp:latest"},
            {"action": "deploy-to-kubernetes", "namespace": "production", "replicas": 3},
        ],
    }


def steps(*written: Any) -> dict[str, Any]:
    """A definition with these steps."""
    return {"target": "production", "steps": list(written)}
