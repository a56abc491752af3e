# intent_ref: modules.sandbox
"""A module that pretends: every action of the tutorial, and nothing is changed anywhere. Each result says so.

Any step can carry the parameter `sandbox` to try out what goes wrong:

    {"action": "deploy-to-kubernetes", "sandbox": {"fail": "no such cluster", "fail_attempts": 2, "take": 1.5}}

`fail` (a message, or true) makes attempts fail: the first `fail_attempts` of them, or all. `retryable: false` makes the
failure final. `take` is how many seconds the attempt lasts (600 at most). The attempt's number comes with the invocation, so
the sandbox remembers nothing.
"""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.contract import Invocation, ModuleError

NAME = ModuleName("sandbox")
NOTE = "nothing was changed"
TAKE_SECONDS_MAX = 600.0
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Sandbox:
    """The sandbox as an in-process module."""

    def __init__(self) -> None:
        actions = tuple(Action(ActionName(name)) for name in _RESULTS)
        self.module = Module(NAME, actions, Transport("in-process", plugin=NAME), _EPOCH, _EPOCH)

    async def call(self, invocation: Invocation) -> dict[str, Any]:
        """Waits and fails as the parameter `sandbox` says, else gives a plausible result."""
        wishes = invocation.parameters.get("sandbox", {})
        if not isinstance(wishes, dict):
            raise _invalid('`sandbox` is an object, such as {"fail": "why", "fail_attempts": 2, "take": 1.5}.')
        await asyncio.sleep(_seconds(wishes.get("take", 0), "sandbox.take"))
        _fail_if_wished(wishes, invocation.attempt)
        if invocation.action == "wait":
            await asyncio.sleep(_seconds(invocation.parameters.get("seconds", 1), "seconds"))
        result = _RESULTS[invocation.action](invocation)
        return {"sandbox": True, "note": NOTE, **result}


def _fail_if_wished(wishes: dict[str, Any], attempt: int) -> None:
    fail, attempts = wishes.get("fail", False), wishes.get("fail_attempts")
    if not isinstance(fail, bool | str):
        raise _invalid("`sandbox.fail` is a message, or true.")
    if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 0):
        raise _invalid("`sandbox.fail_attempts` is a whole number: how many attempts fail before one succeeds.")
    wished = fail is not False and fail != "" if "fail" in wishes else attempts is not None
    if wished and (attempts is None or attempt <= attempts):
        message = fail if isinstance(fail, str) and fail else "The sandbox was told to fail."
        raise ModuleError(
            "sandbox-failure", message, retryable=wishes.get("retryable", True) is not False,
            details={"sandbox": True, "note": NOTE, "attempt": attempt},
        )  # fmt: skip


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TAKE_SECONDS_MAX:
        raise _invalid(f"`{name}` is a number of seconds from 0 to {TAKE_SECONDS_MAX:g}.")
    return float(value)


def _invalid(message: str) -> ModuleError:
    return ModuleError("input-invalid", message, retryable=False)


def _text(invocation: Invocation, name: str, otherwise: str) -> str:
    value = invocation.parameters.get(name, otherwise)
    return value if isinstance(value, str) else otherwise


def _digest(*parts: str) -> str:
    """The same parts always give the same digest, as an image built twice from the same context would."""
    return "sha256:" + hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _build(invocation: Invocation) -> dict[str, Any]:
    image = _text(invocation, "image", "app:latest")
    digest = _digest("image", image, _text(invocation, "context", "."))
    return {"image": image, "digest": digest, "layers": 7, "size_bytes": 48_000_000 + int(digest[-5:], 16)}


def _push(invocation: Invocation) -> dict[str, Any]:
    image, registry = _text(invocation, "image", "app:latest"), _text(invocation, "registry", "registry.example")
    return {"registry": registry, "reference": f"{registry}/{image}", "digest": _digest("manifest", registry, image)}


def _deploy(invocation: Invocation) -> dict[str, Any]:
    replicas = invocation.parameters.get("replicas", 1)
    replicas = replicas if isinstance(replicas, int) and not isinstance(replicas, bool) and replicas >= 0 else 1
    namespace = _text(invocation, "namespace", invocation.target)
    return {"namespace": namespace, "replicas": replicas, "ready_replicas": replicas, "rollout": "complete", "revision": 1}


def _run_tests(invocation: Invocation) -> dict[str, Any]:
    suite = _text(invocation, "suite", "all")
    passed = 20 + int(_digest("tests", suite)[-2:], 16)
    return {"suite": suite, "passed": passed, "failed": 0, "skipped": 0}


def _notify(invocation: Invocation) -> dict[str, Any]:
    return {"channel": _text(invocation, "channel", "log"), "delivered": True}


def _provision(invocation: Invocation) -> dict[str, Any]:
    kind, name = _text(invocation, "kind", "resource"), _text(invocation, "name", invocation.step)
    return {"kind": kind, "name": name, "resource_id": f"sandbox/{kind}/{_digest(kind, name, invocation.target)[7:19]}"}


def _verify(invocation: Invocation) -> dict[str, Any]:
    return {"healthy": True, "checks": 3, "url": _text(invocation, "url", "")}


def _back(invocation: Invocation) -> dict[str, Any]:
    return {"namespace": _text(invocation, "namespace", invocation.target), "rolled_back": True}


def _wait(invocation: Invocation) -> dict[str, Any]:
    return {"waited_seconds": invocation.parameters.get("seconds", 1)}


def _nothing(_invocation: Invocation) -> dict[str, Any]:
    return {}


_RESULTS: dict[str, Callable[[Invocation], dict[str, Any]]] = {
    "build-docker-image": _build,
    "push-to-registry": _push,
    "deploy-to-kubernetes": _deploy,
    "run-tests": _run_tests,
    "notify": _notify,
    "provision-resource": _provision,
    "verify-health": _verify,
    "roll-back-deployment": _back,
    "wait": _wait,
    "no-op": _nothing,
}
