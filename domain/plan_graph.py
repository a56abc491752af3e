# intent_ref: domain.plan-graph
"""A plan as a graph: what comes before what, how long the longest way is, and how it looks as Mermaid and DOT.

Steps are pairs of an id and the ids it depends on, in the order of the plan. A dependency on what is no step is passed over:
the definition's rules have refused it before. The sets of ancestors are kept as whole numbers, a bit a step: 500 steps
take some milliseconds, the most entangled plan 30.
"""

from collections.abc import Iterable, Mapping, Sequence

from domain.immutable import immutable

Pairs = Iterable[tuple[str, Sequence[str]]]

_SHAPES_MERMAID = {
    "action": ("[", "]"), "wait": ("([", "])"), "approval": ("{{", "}}"), "signal": ("{{", "}}"), "workflow": ("[[", "]]"),
    "foreach": ("[/", "/]"), "none": ("(", ")"),
}  # fmt: skip
_SHAPES_DOT = {
    "action": "box", "wait": "oval", "approval": "hexagon", "signal": "hexagon", "workflow": "box3d", "foreach": "parallelogram",
    "none": "plaintext",
}  # fmt: skip
_LABEL_CHARS_MAX = 120
_PLAIN_MARKS = frozenset(" -_.,/")


class PlanHasCycle(ValueError):
    """Steps that wait for each other; `steps` are all that can never start."""

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__(f"The steps {', '.join(map(repr, steps[:10]))} wait for each other.")
        self.steps = tuple(steps)


@immutable
class DrawnStep:
    """A step as it is drawn. `kind` is one of action, wait, approval, signal, workflow, foreach, none."""

    id: str
    depends_on: tuple[str, ...] = ()
    label: str = ""
    kind: str = "action"


def topological_order(pairs: Pairs) -> list[str]:
    """Every id behind all it depends on, otherwise in the order given (Kahn's algorithm); raises `PlanHasCycle`."""
    before = _known(pairs)
    waiting = {step: len(dependencies) for step, dependencies in before.items()}
    after = _turned(before)
    ready = [step for step, count in waiting.items() if count == 0]
    order: list[str] = []
    while ready:
        following: list[str] = []
        for step in ready:
            order.append(step)
            for later in after[step]:
                waiting[later] -= 1
                if waiting[later] == 0:
                    following.append(later)
        ready = following
    if len(order) < len(before):
        raise PlanHasCycle([step for step, count in waiting.items() if count > 0])
    return order


def ancestors(pairs: Pairs) -> dict[str, frozenset[str]]:
    """For each step all that have ended before it starts; raises `PlanHasCycle`."""
    return _reached(_known(pairs))


def descendants(pairs: Pairs) -> dict[str, frozenset[str]]:
    """For each step all that start only after it has ended; raises `PlanHasCycle`."""
    before = _known(pairs)
    topological_order(before.items())  # a cycle is told of as seen from its beginning
    return _reached(_turned(before))


def critical_path(pairs: Pairs, seconds: Mapping[str, float] | None = None) -> tuple[list[str], float]:
    """The longest way through the plan and its length: in seconds where each step's are given, else in steps.

    Of two ways of the same length the one given first; raises `PlanHasCycle`.
    """
    before = _known(pairs)
    length: dict[str, float] = {}
    came_from: dict[str, str | None] = {}
    for step in topological_order(before.items()):
        via = max(before[step], key=length.__getitem__, default=None)
        came_from[step] = via
        own = 1.0 if seconds is None else max(seconds.get(step, 0.0), 0.0)
        length[step] = own + (length[via] if via is not None else 0.0)
    if not length:
        return [], 0.0
    last: str | None = max(length, key=length.__getitem__)
    total, way = length[last] if last is not None else 0.0, []
    while last is not None:
        way.append(last)
        last = came_from[last]
    return way[::-1], total


def mermaid(steps: Iterable[DrawnStep]) -> str:
    """The plan as a Mermaid flowchart (mermaid.js.org/syntax/flowchart). Ids and labels appear as text, whatever they hold."""
    drawn = list(steps)
    names = {step.id: f"s{index}" for index, step in enumerate(drawn)}
    lines = ["flowchart TD"]
    for step in drawn:
        opening, closing = _SHAPES_MERMAID.get(step.kind, _SHAPES_MERMAID["action"])
        label = "<br/>".join(_mermaid_text(line) for line in _lines(step))
        lines.append(f'    {names[step.id]}{opening}"{label}"{closing}')
    lines += [f"    {names[before]} --> {names[step.id]}" for step in drawn for before in step.depends_on if before in names]
    return "\n".join(lines) + "\n"


def dot(steps: Iterable[DrawnStep]) -> str:
    """The plan as a graph for Graphviz (graphviz.org/doc/info/lang.html). Ids and labels appear as text, whatever they hold."""
    drawn = list(steps)
    names = {step.id: f"s{index}" for index, step in enumerate(drawn)}
    lines = ["digraph plan {", "    rankdir=TB;"]
    for step in drawn:
        shape = _SHAPES_DOT.get(step.kind, _SHAPES_DOT["action"])
        label = "\\n".join(_dot_text(line) for line in _lines(step))
        lines.append(f'    {names[step.id]} [label="{label}", shape={shape}];')
    lines += [f"    {names[before]} -> {names[step.id]};" for step in drawn for before in step.depends_on if before in names]
    return "\n".join([*lines, "}"]) + "\n"


def _known(pairs: Pairs) -> dict[str, tuple[str, ...]]:
    given = {step: tuple(dict.fromkeys(dependencies)) for step, dependencies in pairs}
    return {step: tuple(one for one in dependencies if one in given) for step, dependencies in given.items()}


def _turned(before: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    after: dict[str, list[str]] = {step: [] for step in before}
    for step, dependencies in before.items():
        for one in dependencies:
            after[one].append(step)
    return {step: tuple(later) for step, later in after.items()}


def _reached(before: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    steps = list(before)
    bit = {step: 1 << index for index, step in enumerate(steps)}
    reached: dict[str, int] = {}
    for step in topological_order(before.items()):
        found = 0
        for one in before[step]:
            found |= bit[one] | reached[one]
        reached[step] = found
    return {step: frozenset(_members(reached[step], steps)) for step in steps}


def _members(bits: int, steps: Sequence[str]) -> list[str]:
    members: list[str] = []
    while bits:
        lowest = bits & -bits
        members.append(steps[lowest.bit_length() - 1])
        bits ^= lowest
    return members


def _lines(step: DrawnStep) -> list[str]:
    return [_shortened(step.id), *([_shortened(step.label)] if step.label and step.label != step.id else [])]


def _shortened(text: str) -> str:
    return text if len(text) <= _LABEL_CHARS_MAX else text[: _LABEL_CHARS_MAX - 1] + "…"


def _mermaid_text(text: str) -> str:
    """Letters and digits as they are, everything else by its number, which Mermaid shows as text and reads as nothing else."""
    return "".join(
        [char if char.isalnum() or char in _PLAIN_MARKS else f"#{ord(char)};" if char.isprintable() else " " for char in text]
    )


def _dot_text(text: str) -> str:
    """The inside of a quoted text: a backslash would begin an escape, an ampersand an entity of HTML."""
    shown = "".join([char if char.isprintable() else " " for char in text])
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
