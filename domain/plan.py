# intent_ref: domain.plan
"""The plan of an execution: its steps with everything filled in, recorded with the start and never changed after."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from domain.immutable import immutable
from domain.module import RetryPolicy
from domain.values import ActionName, ModuleName, StepId

GateKind = Literal["wait", "approval", "signal"]
OnDue = Literal["complete", "fail", "skip"]
WorkKind = Literal["action", "workflow", "none"]


@immutable
class Work:
    """What one module is asked to do. Strings of `parameters` may hold `${{ … }}`.

    `is_metered`: the action has limits of its own.
    """

    action: ActionName
    module: ModuleName
    parameters: dict[str, Any]
    timeout_seconds: float
    retry: RetryPolicy
    is_metered: bool = False


@immutable
class Gate:
    """What a step waits for before its work: a time, a person, or a signal.

    `duration` (seconds, or a template) or `until` (a time, or a template) say when the wait is over: for `wait` that completes
    it, for the others `on_due` says what then. Without either, a person or a signal is waited for as long as it takes. `zone`
    (an IANA name, or a template) says by whose clocks `until` is, where that has no offset of its own.
    """

    kind: GateKind
    duration: Any = None
    until: Any = None
    on_due: OnDue = "complete"
    roles: tuple[str, ...] = ()
    signal: str | None = None
    message: Any = None
    zone: str | None = None


@immutable
class ForEach:
    """The step's work once for each of `items` (a list, or a template that gives one), `concurrency` of them at a time."""

    items: Any
    concurrency: int


@immutable
class Child:
    """Another intent, executed as this step's work. Without a version, the current one of the time when it starts."""

    intent: str
    version: int | None
    inputs: dict[str, Any]


@immutable
class Control:
    """What a step says beyond its action. `join` is how many of its dependencies suffice; None means all.

    A step that `skips_with_dependencies` is skipped when all that it names in `depends_on` were skipped (dead-path elimination,
    as in WS-BPEL 2.0, 11.6.3); one that merely comes next in the list is not.
    """

    when: str | None = None
    join: int | None = None
    skips_with_dependencies: bool = False
    gates: tuple[Gate, ...] = ()
    work: WorkKind = "action"
    child: Child | None = None
    foreach: ForEach | None = None
    goes_on_after_failure: bool = False
    fallback: Work | None = None
    compensation: Work | None = None
    queue_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    concurrency_key: Any = None
    concurrency_max: int | None = None
    is_metered: bool = False

    @property
    def is_unlimited(self) -> bool:
        """True where the step itself sets no limit of time or number to its runs, but for those of an attempt."""
        return self.queue_seconds is None and self.total_seconds is None and self.concurrency_key is None


_PLAIN = Control()


@immutable
class PlannedStep:
    """A step as it will be carried out: everything the definition left unsaid is filled in.

    Where `control.work` is not an action, `action` says in a word what it is, and `module` is empty.
    """

    id: StepId
    action: ActionName
    module: ModuleName
    depends_on: tuple[StepId, ...]
    parameters: dict[str, Any]
    timeout_seconds: float
    retry: RetryPolicy
    control: Control | None = None

    @property
    def flow(self) -> Control:
        """The control flow; the plain one where nothing was said."""
        return self.control or _PLAIN

    def own_work(self) -> Work:
        """The step's action as work."""
        return Work(self.action, self.module, self.parameters, self.timeout_seconds, self.retry, self.flow.is_metered)


@immutable
class Joint:
    """Steps that wait for the same others, so that one count does for all of them. `early` need not wait for every one.

    A layer of 100 steps behind another one is one joint, where counting by step would cost 100 times 100 answers.
    """

    before: tuple[StepId, ...]
    steps: tuple[PlannedStep, ...]
    early: tuple[PlannedStep, ...]


@dataclass(frozen=True)
class Plan:
    """A plan as a graph. Built once an execution, and carried from state to state.

    What is worked out once is kept under names that begin with `_`, which serialization leaves out.
    """

    steps: tuple[PlannedStep, ...]

    @property
    def by_id(self) -> dict[str, PlannedStep]:
        """The steps by their ids."""
        return self._by_id

    @cached_property
    def _by_id(self) -> dict[str, PlannedStep]:
        return {step.id: step for step in self.steps}

    @property
    def own_works(self) -> dict[StepId, Work]:
        """Each step's action as work."""
        return self._own_works

    @cached_property
    def _own_works(self) -> dict[StepId, Work]:
        return {step.id: step.own_work() for step in self.steps}

    @property
    def is_plain(self) -> bool:
        """True where no step has a gate, a child, or a time for all that it does."""
        return self._is_plain

    @cached_property
    def _is_plain(self) -> bool:
        flows = [step.control for step in self.steps if step.control is not None]
        return not any(flow.gates or flow.work == "workflow" or flow.total_seconds is not None for flow in flows)

    @property
    def joints(self) -> tuple[Joint, ...]:
        """The steps by what they wait for, in the plan's order; each step is in one."""
        return self._joints

    @cached_property
    def _joints(self) -> tuple[Joint, ...]:
        found: dict[tuple[StepId, ...], list[PlannedStep]] = {}
        for step in self.steps:
            found.setdefault(step.depends_on, []).append(step)
        return tuple(
            [Joint(before, tuple(steps), tuple([one for one in steps if one.flow.join is not None]))
             for before, steps in found.items()]
        )  # fmt: skip

    @property
    def joint_of(self) -> dict[StepId, int]:
        """The number of each step's joint."""
        return self._joint_of

    @cached_property
    def _joint_of(self) -> dict[StepId, int]:
        return {step.id: number for number, joint in enumerate(self.joints) for step in joint.steps}

    @property
    def joints_behind(self) -> dict[StepId, list[int]]:
        """The numbers of the joints that wait for each step."""
        return self._joints_behind

    @cached_property
    def _joints_behind(self) -> dict[StepId, list[int]]:
        found: dict[StepId, list[int]] = {step.id: [] for step in self.steps}
        for number, joint in enumerate(self.joints):
            for before in joint.before:
                found[before].append(number)
        return found

    @property
    def joint_sizes(self) -> tuple[int, ...]:
        """For how many steps each joint waits."""
        return self._joint_sizes

    @cached_property
    def _joint_sizes(self) -> tuple[int, ...]:
        return tuple([len(joint.before) for joint in self.joints])

    def descendants(self, step_id: str) -> set[str]:
        """Every step that waits for this one, at whatever remove."""
        found: set[str] = set()
        waiting = [step_id]
        while waiting:
            for number in self.joints_behind[StepId(waiting.pop())]:
                new = [step.id for step in self.joints[number].steps if step.id not in found]
                found.update(new)
                waiting += new
        return found

    def step_of(self, run_id: str) -> PlannedStep | None:
        """The step behind a run: of the step itself (`deploy`), one of its items (`deploy[3]`), or an undoing (`~deploy`)."""
        return self.by_id.get(StepId(run_id)) or self.by_id.get(step_of_run(run_id))


_SHARED_MAX = 512
_shared: dict[int, Plan] = {}


def shared_plan(steps: tuple[PlannedStep, ...]) -> Plan:
    """The plan of `steps`: the same object for the same tuple, so that executions of one version work it out once."""
    plan = _shared.get(id(steps))
    if plan is None or plan.steps is not steps:
        if len(_shared) >= _SHARED_MAX:
            del _shared[next(iter(_shared))]
        plan = _shared[id(steps)] = Plan(steps)
    return plan


def step_of_run(run_id: str) -> StepId:
    """The id of the step that a run belongs to."""
    return StepId(run_id.removeprefix("~").partition("[")[0])


def item_run(step: str, index: int) -> StepId:
    """The run of a step's item. No step's id has a bracket in it."""
    return StepId(f"{step}[{index}]")


def item_index(run_id: str) -> int | None:
    """The number of the item that a run is for; None for a run of a whole step."""
    return int(run_id[run_id.index("[") + 1 : -1]) if run_id.endswith("]") else None


def undoing_run(run_id: str) -> StepId:
    """The run that compensates another one. No step's id begins with a tilde."""
    return StepId(f"~{run_id}")


def is_undoing(run_id: str) -> bool:
    """True for the run of a compensation."""
    return run_id.startswith("~")
