# intent_ref: tests.execution-core
"""Random plans, what is fated to become of each step, and what must then become of the whole: a model that knows nothing of how
the core goes about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from domain.execution_events import ExecutionEvent, StepRetrying, StepStarted, StepWaiting
from domain.refusals import StepNotWaiting
from tests.unit.execution_play import Play

ALWAYS = 99
TOTAL = 50
SIGNAL_OF = "signal-{}"


@dataclass
class Fate:
    """What becomes of a step: how many attempts of its work fail, by item (of the whole: 0), and what comes to its gates. A child
    that `hangs` never comes to its end."""

    failures: list[int] = field(default_factory=lambda: [0])
    gates: dict[str, str] = field(default_factory=dict)
    undoing_fails: bool = False
    hangs: bool = False

    def failures_of(self, run_id: str) -> int:
        """How many attempts of this run fail before one succeeds."""
        index = int(run_id[run_id.index("[") + 1 : -1]) if run_id.endswith("]") else 0
        return self.failures[index % len(self.failures)]


@dataclass(frozen=True)
class Story:
    """A definition and the fates of its steps."""

    steps: list[dict[str, Any]]
    fates: dict[str, Fate]


GATES = {
    "wait": {"due": "pass"},
    "approval": {
        "approve": "pass", "reject": "fail", "expire-fail": "fail", "expire-approve": "pass", "expire-skip": "skip",
        "never": "fail",
    },
    "signal": {"come": "pass", "expire-fail": "fail", "expire-complete": "pass", "expire-skip": "skip", "never": "fail"},
}  # fmt: skip
"""What can come to each kind of gate, and what it then means for the run."""


@st.composite
def stories(draw: st.DrawFn, *, fatal: bool = True) -> Story:
    """Any graph, its steps written in any order, with any control flow, and any fate."""
    count = draw(st.integers(1, 6))
    order = draw(st.permutations(range(count)))
    steps: list[dict[str, Any]] = [{} for _ in range(count)]
    fates: dict[str, Fate] = {}
    for rank, index in enumerate(order):
        name = f"s{index}"
        earlier = [f"s{other}" for other in order[:rank]]
        depends_on = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        steps[index] = {"id": name, "depends_on": depends_on}
        fates[name] = draw(_control(steps[index], fatal))
    return Story(steps, fates)


@st.composite
def _control(draw: st.DrawFn, step: dict[str, Any], fatal: bool) -> Fate:
    fate, name = Fate(), step["id"]
    some = st.integers(0, 3).map(lambda number: number == 0)
    kind = draw(st.sampled_from(["action"] * 6 + ["workflow", "gate"]))
    if kind == "action":
        step["action"] = "a"
    elif kind == "workflow":
        step["workflow"] = "w"
    if step["depends_on"] and draw(some):
        step["join"] = draw(st.sampled_from(["any", *range(1, len(step["depends_on"]) + 1)]))
    if draw(some):
        step["when"] = draw(st.booleans())
    gates = draw(st.lists(st.sampled_from(list(GATES)), unique=True, min_size=1)) if kind == "gate" or draw(some) else []
    for gate in gates:
        what = fate.gates[gate] = draw(st.sampled_from(list(GATES[gate])))
        step[gate] = _written(gate, what, name)
        if what == "never":
            step["timeouts"] = {"total": TOTAL}
    if kind != "gate":
        if draw(some):
            items = draw(st.integers(0, 4))
            step["foreach"] = {"items": list(range(items)), "concurrency": draw(st.integers(1, 3))}
        if kind == "action" and draw(some):
            step["retry"] = {"max_attempts": draw(st.integers(1, 3)), "initial_interval": 1}
        if draw(some):
            step["fallback"] = "b"
        fate.failures = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, ALWAYS] if fatal else [0]), min_size=1, max_size=4))
        if kind == "workflow" and fatal and draw(some):
            fate.hangs, step["timeouts"] = True, {"total": TOTAL}
        if draw(st.booleans()):
            step["compensate"] = "undo"
            fate.undoing_fails = draw(some)
    if draw(some):
        step["on_failure"] = "continue"
    return fate


def _written(gate: str, what: str, name: str) -> Any:
    said: dict[str, Any] = {}
    if gate == "wait":
        return 5
    if gate == "signal":
        said["name"] = SIGNAL_OF.format(name)
    if what.startswith("expire-"):
        said.update(expires_in=5, on_expiry=what.removeprefix("expire-"))
    return said


# --- what must become of it


def outcome_of_run(step: dict[str, Any], fate: Fate, run_id: str) -> str:
    """`completed`, `failed` or `skipped`: what becomes of one run of the step, once it may begin."""
    for gate in ("wait", "approval", "signal"):
        if gate in step and (what := GATES[gate][fate.gates[gate]]) != "pass":
            return "failed" if what == "fail" else "skipped"
    if "action" not in step and "workflow" not in step:
        return "completed"
    if fate.hangs:
        return "failed"
    attempts = step.get("retry", {}).get("max_attempts", 1) + ("fallback" in step)
    return "completed" if fate.failures_of(run_id) < attempts else "failed"


def outcomes(story: Story) -> dict[str, str]:
    """What becomes of each step: `completed`, `failed` (and lived with), `fatal`, `skipped`, or `never`, behind a fatal one."""
    found: dict[str, str] = {}
    left = {step["id"]: step for step in story.steps}
    while left:
        step = next(one for one in left.values() if all(before in found for before in one["depends_on"]))
        found[step["id"]] = _outcome(step, story.fates[step["id"]], [found[before] for before in step["depends_on"]])
        del left[step["id"]]
    return found


def _outcome(step: dict[str, Any], fate: Fate, before: list[str]) -> str:
    join = step.get("join")
    if join is not None:
        wanted = 1 if join == "any" else join
        if sum(one in ("completed", "failed") for one in before) < wanted:
            return "never" if "fatal" in before or "never" in before else "skipped"
    elif "fatal" in before or "never" in before:
        return "never"
    elif before and all(one == "skipped" for one in before):
        return "skipped"
    if step.get("when") is False:
        return "skipped"
    runs = [f"{step['id']}[{index}]" for index in step["foreach"]["items"]] if "foreach" in step else [step["id"]]
    ends = {outcome_of_run(step, fate, run_id) for run_id in runs}
    if "failed" in ends:
        return "failed" if step.get("on_failure") == "continue" else "fatal"
    return "skipped" if ends == {"skipped"} and "foreach" not in step else "completed"


# --- what comes from outside


@dataclass(frozen=True)
class Stimulus:
    """Something that comes from outside, because an event asked for it. It may come twice, late, and in any order."""

    kind: str
    run: str
    number: int

    def arrive(self, play: Play, story: Story) -> list[str]:
        """What it brings about; raises a refusal where it comes too late."""
        fate = story.fates[self.run.removeprefix("~").partition("[")[0]]
        match self.kind:
            case "call" if self.run.startswith("~"):
                fails = fate.undoing_fails
            case "call" | "child":
                fails = self.number <= fate.failures_of(self.run)
            case "timer":
                return play.due(self.run, self.number)
            case gate:
                return self._judge(play, fate.gates[gate])
        if self.kind == "child":
            waiting = play.run(self.run).waiting
            if waiting is None or waiting.detail.get("attempt") != self.number:
                raise StepNotWaiting(play.state.execution_id, self.run)
            if fate.hangs:
                return play.later(TOTAL).out_of_time(self.run)
            return play.child_failed(self.run) if fails else play.child_done(self.run, self.run)
        return play.fail(self.run, attempt=self.number) if fails else play.complete(self.run, self.run, attempt=self.number)

    def _judge(self, play: Play, what: str) -> list[str]:
        if what == "never":
            return play.later(TOTAL).out_of_time(self.run)
        if what.startswith("expire-"):
            return play.due(self.run, self.number)
        if what == "come":
            return play.signal(SIGNAL_OF.format(self.run.partition("[")[0]), self.run)
        return play.approve(self.run) if what == "approve" else play.reject(self.run)


def asked_by(events: list[ExecutionEvent], play: Play) -> Iterator[Stimulus]:
    """What comes from outside because of `events`."""
    for event in events:
        if isinstance(event, StepStarted | StepRetrying):
            yield Stimulus("call", event.step, event.attempt)
        elif isinstance(event, StepWaiting) and event.reason == "child":
            yield Stimulus("child", event.step, event.detail["attempt"])
        elif isinstance(event, StepWaiting) and event.reason != "resume":
            if event.reason == "signal" and play.run(event.step).status != "waiting":
                continue  # its signal was there before it was asked for
            yield Stimulus(event.reason, event.step, event.gate)
