# intent_ref: commands.planning
"""From a definition to a plan: everything left unsaid is filled in, from the action first, else from the platform."""

from domain.definition import Definition
from domain.module import Action, Module, Modules, RetryPolicy
from domain.plan import Child, Control, ForEach, Gate, PlannedStep, Work, WorkKind
from domain.step_control import ActionUse, ControlDraft
from domain.steps import Step
from domain.values import ActionName, ModuleName, StepId

TIMEOUT_SECONDS_DEFAULT = 300.0


def plan_of(definition: Definition, catalogue: Modules) -> tuple[PlannedStep, ...]:
    """The plan of a definition that holds to every rule of today."""
    skippable = _skippable(definition)
    return tuple([_planned(step, step.id in skippable, catalogue) for step in definition.steps])


def _skippable(definition: Definition) -> set[str]:
    """The steps that are skipped when all they name are: those of which each dependency may be skipped itself.

    A join of which too few dependencies are sure to run may be skipped as well.
    """
    skipped = {
        step.id for step in definition.steps
        if step.control is not None and (step.control.when or any(gate.on_due == "skip" for gate in step.control.gates))
    }  # fmt: skip
    following: set[str] = set()
    candidates = [step for step in definition.steps if step.depends_on and not step.is_sequel] if skipped else []
    joins = [(step, join) for step in candidates if step.control is not None
             and (join := _join(step.control, len(step.depends_on))) is not None]  # fmt: skip
    while True:
        more = {step.id for step in candidates if step.id not in following and skipped.issuperset(step.depends_on)}
        dead = {step.id for step, join in joins if sum(before not in skipped for before in step.depends_on) < join}
        if not more and dead <= skipped:
            return following
        following |= more
        skipped |= more | dead


def _planned(step: Step, skips: bool, catalogue: Modules) -> PlannedStep:
    if step.has_action:
        module, action = _found(step.action, catalogue)
        name = module.name
        timeout_seconds = step.timeout_seconds or action.timeout_seconds or TIMEOUT_SECONDS_DEFAULT
        retry = step.retry or action.retry or RetryPolicy()
    else:
        action, name = None, ModuleName("")
        timeout_seconds, retry = step.timeout_seconds or TIMEOUT_SECONDS_DEFAULT, step.retry or RetryPolicy()
    return PlannedStep(
        id=StepId(step.id),
        action=ActionName(step.action),
        module=name,
        depends_on=tuple([StepId(before) for before in step.depends_on]),
        parameters=step.parameters,
        timeout_seconds=timeout_seconds,
        retry=retry,
        control=_control(step, skips, action, catalogue),
    )


def _control(step: Step, skips: bool, action: Action | None, catalogue: Modules) -> Control | None:
    """None for a step that says nothing beyond its action, so that plain plans stay small."""
    said = step.control
    undo, metered = _compensation(step, action, catalogue), action is not None and action.is_metered
    if said is None:
        if not skips and undo is None and not metered:
            return None
        return Control(skips_with_dependencies=skips, compensation=undo, is_metered=metered)
    return Control(
        when=said.when,
        join=_join(said, len(step.depends_on)),
        skips_with_dependencies=skips,
        gates=tuple([
            Gate(gate.kind, gate.duration, gate.until, gate.on_due, gate.roles, gate.signal, gate.message, gate.zone)
            for gate in said.gates
        ]),
        work=_work_kind(step),
        child=None if said.workflow is None else Child(said.workflow.name, said.workflow.version, said.workflow.inputs),
        foreach=ForEach(said.items, said.items_at_once) if said.is_loop else None,
        goes_on_after_failure=said.goes_on_after_failure,
        fallback=None if said.fallback is None else _work(said.fallback, catalogue),
        compensation=undo,
        queue_seconds=said.queue_seconds,
        total_seconds=said.total_seconds,
        heartbeat_seconds=said.heartbeat_seconds,
        concurrency_key=said.concurrency_key,
        concurrency_max=said.concurrency_max,
        is_metered=metered,
    )  # fmt: skip


def _join(said: ControlDraft, dependencies: int) -> int | None:
    if said.join is None or said.join == "all":
        return None
    return min(1, dependencies) if said.join == "any" else said.join


def _work_kind(step: Step) -> WorkKind:
    if step.has_action:
        return "action"
    return "workflow" if step.control is not None and step.control.workflow is not None else "none"


def _compensation(step: Step, action: Action | None, catalogue: Modules) -> Work | None:
    """What undoes the step: what it says itself, else what its action says, with the step's own parameters."""
    said = step.control
    if said is not None and (said.compensate is not None or said.is_never_undone):
        return None if said.compensate is None else _work(said.compensate, catalogue)
    if action is None or action.compensate is None or catalogue.with_action(action.compensate) is None:
        return None
    return _work(ActionUse(action.compensate, step.parameters, None, None, ""), catalogue)


def _work(use: ActionUse, catalogue: Modules) -> Work:
    module, action = _found(use.action, catalogue)
    timeout_seconds = use.timeout_seconds or action.timeout_seconds or TIMEOUT_SECONDS_DEFAULT
    retry = use.retry or action.retry or RetryPolicy()
    return Work(action.name, module.name, use.parameters, timeout_seconds, retry, action.is_metered)


def _found(name: str, catalogue: Modules) -> tuple[Module, Action]:
    module = catalogue.with_action(name)
    assert module is not None, "a valid definition names known actions"
    action = module.action(name)
    assert action is not None, "the module was found by the action"
    return module, action
