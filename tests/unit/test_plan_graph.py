# intent_ref: domain.plan-graph
"""Graph questions about plans have the right answers, and drawings stay drawings whatever a step is called."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.plan_graph import (
    DrawnStep,
    PlanHasCycle,
    ancestors,
    critical_path,
    descendants,
    dot,
    mermaid,
    topological_order,
)

DIAMOND = [("deploy", ["test", "scan"]), ("build", []), ("test", ["build"]), ("scan", ["build"])]
HOSTILE = [
    'a"]', "a\nb", "<b>x</b>", "<script>alert(1)</script>", "a-->b", "end", "graph TD", "%% x", "a;b", "{{x}}", "#quot;", "&lt;",
    "a|b", "\\", '\\"', '"', "]", "\\N", "\\n", "\0", "\u202e", "a`b", "click s0 call x()", "é", "", "😀", "s0", "x" * 500,
]  # fmt: skip
_MERMAID_NODE = re.compile(
    r'    (s\d+)(?:\["(T)"\]|\(\["(T)"\]\)|\{\{"(T)"\}\}|\[\["(T)"\]\]|\[/"(T)"/\]|\("(T)"\))'.replace(
        "T", r"(?:[\w .,/-]|#\d+;|<br/>)*"
    )
)
_DOT_NODE = re.compile(r'    (s\d+) \[label="((?:[^"\\]|\\["\\n])*)", shape=[a-z0-9]+\];')


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    """Plans without a cycle, their steps in any order."""
    count = draw(st.integers(0, 12))
    pairs = [
        (f"s{index}", sorted({f"s{one}" for one in draw(st.lists(st.integers(0, index - 1), max_size=4))}) if index else [])
        for index in range(count)
    ]
    return draw(st.permutations(pairs))


def reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for one in edges[left.pop()] - found:
            found.add(one)
            left.append(one)
    return found


def test_every_step_comes_behind_what_it_depends_on():
    assert topological_order(DIAMOND) == ["build", "test", "scan", "deploy"]
    assert topological_order([("b", []), ("a", [])]) == ["b", "a"]


@given(graphs())
def test_order_ancestors_and_descendants_agree(pairs: list[tuple[str, list[str]]]):
    order = topological_order(pairs)
    assert sorted(order) == sorted(step for step, _ in pairs)
    place = {step: index for index, step in enumerate(order)}
    assert all(place[before] < place[step] for step, dependencies in pairs for before in dependencies)
    before = {step: set(dependencies) for step, dependencies in pairs}
    above, below = ancestors(pairs), descendants(pairs)
    assert above == {step: reached(step, before) for step in before}
    assert below == {step: {other for other in before if step in above[other]} for step in before}


@given(graphs())
def test_no_way_through_a_plan_is_longer_than_the_critical_path(pairs: list[tuple[str, list[str]]]):
    way, length = critical_path(pairs)
    depends = dict(pairs)
    assert length == len(way)
    assert all(early in depends[late] for early, late in pairwise(way))
    deepest: dict[str, int] = {}
    for step in topological_order(pairs):
        deepest[step] = 1 + max((deepest[before] for before in depends[step]), default=0)
    assert length == max(deepest.values(), default=0)


def test_the_critical_path_goes_by_time_where_that_is_known():
    assert critical_path(DIAMOND, {"build": 1, "test": 5, "scan": 60, "deploy": 2}) == (["build", "scan", "deploy"], 63)
    assert critical_path([]) == ([], 0)


@pytest.mark.parametrize("question", [topological_order, ancestors, descendants, critical_path])
def test_steps_that_wait_for_each_other_are_named(question):
    with pytest.raises(PlanHasCycle) as raised:
        question([("a", []), ("b", ["c", "a"]), ("c", ["b"]), ("d", ["d"])])
    assert raised.value.steps == ("b", "c", "d")


def test_a_dependency_on_no_step_and_one_said_twice_change_nothing():
    assert topological_order([("a", ["ghost"]), ("b", ["a", "a"])]) == ["a", "b"]


def test_a_plan_of_500_steps_that_all_depend_on_each_other_is_no_trouble():
    chain = [(f"s{index}", [f"s{one}" for one in range(index)]) for index in range(500)]
    assert len(ancestors(chain)["s499"]) == len(descendants(chain)["s0"]) == 499
    assert critical_path(chain)[1] == 500


def drawn(names: list[str]) -> list[DrawnStep]:
    kinds = ("action", "wait", "approval", "signal", "workflow", "foreach", "none", "unheard-of")
    steps = [DrawnStep(name, (), names[-1 - index], kinds[index % len(kinds)]) for index, name in enumerate(names)]
    return [
        DrawnStep(one.id, tuple(other.id for other in steps[:index][-2:]), one.label, one.kind) for index, one in enumerate(steps)
    ]


def check_mermaid(text: str, steps: list[DrawnStep]) -> None:
    lines = text.split("\n")
    assert lines[0] == "flowchart TD"
    assert lines[-1] == ""
    nodes, edges = lines[1 : 1 + len(steps)], lines[1 + len(steps) : -1]
    for index, line in enumerate(nodes):
        match = _MERMAID_NODE.fullmatch(line)
        assert match, line
        assert match[1] == f"s{index}"
    assert len(edges) == sum(len(step.depends_on) for step in steps)
    assert all(re.fullmatch(r"    s\d+ --> s\d+", line) for line in edges)


def check_dot(text: str, steps: list[DrawnStep]) -> None:
    lines = text.split("\n")
    assert lines[:2] == ["digraph plan {", "    rankdir=TB;"]
    assert lines[-2:] == ["}", ""]
    nodes, edges = lines[2 : 2 + len(steps)], lines[2 + len(steps) : -2]
    assert all(_DOT_NODE.fullmatch(line) for line in nodes)
    assert len(edges) == sum(len(step.depends_on) for step in steps)
    assert all(re.fullmatch(r"    s\d+ -> s\d+;", line) for line in edges)


def test_drawings_show_steps_and_what_they_depend_on():
    steps = [DrawnStep("build"), DrawnStep("ask", ("build", "ghost"), "Is it good?", "approval")]
    assert mermaid(steps) == 'flowchart TD\n    s0["build"]\n    s1{{"ask<br/>Is it good#63;"}}\n    s0 --> s1\n'
    assert dot(steps) == (
        'digraph plan {\n    rankdir=TB;\n    s0 [label="build", shape=box];\n'
        '    s1 [label="ask\\nIs it good?", shape=hexagon];\n    s0 -> s1;\n}\n'
    )


def test_hostile_names_stay_text():
    steps = drawn(HOSTILE)
    check_mermaid(mermaid(steps), steps)
    check_dot(dot(steps), steps)


@given(st.lists(st.text(max_size=30), unique=True, max_size=8))
def test_any_name_stays_text(names: list[str]):
    steps = drawn(names)
    check_mermaid(mermaid(steps), steps)
    check_dot(dot(steps), steps)


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's `dot` is not installed")
def test_graphviz_reads_what_is_drawn():
    steps = drawn([name for name in HOSTILE if name])
    done = subprocess.run(["dot", "-Tplain"], input=dot(steps), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\nnode ") == len(steps)
