# intent_ref: quantum.cli-executions
"""An execution as a tree for the terminal: its steps with what they wait for, their items, and their undoing. Pure."""

from typing import Any

from rich.markup import escape
from rich.tree import Tree

ENDED = frozenset({"completed", "failed", "cancelled", "terminated"})
ITEMS_SHOWN_MAX = 20
_CHARS_MAX = 120
_MARKS = {
    "pending": ("dim", "·"), "waiting": ("yellow", "◷"), "running": ("cyan", "▶"), "retrying": ("yellow", "↻"),
    "completed": ("green", "✓"), "failed": ("red", "✗"), "skipped": ("dim", "⤼"), "cancelled": ("dim", "⊘"),
    "compensating": ("magenta", "↶"), "compensated": ("magenta", "↩"), "paused": ("yellow", "⏸"), "cancelling": ("yellow", "⊘"),
    "terminated": ("red", "⊘"),
}  # fmt: skip


def execution_tree(document: dict[str, Any]) -> Tree:
    """The tree of an execution's document."""
    tree = Tree(f"{_mark(document['status'])} [bold]{escape(document['intent_name'])}[/] {_head(document)}")
    for step in document["steps"]:
        branch = tree.add(_line(step))
        if step["items"] is not None:
            _add_items(branch, step["items"])
        _add_undoing(branch, step)
    for step in document["not_undone"]:
        tree.add(f"[bold red]not undone:[/] {escape(step)} - somebody has to look")
    return tree


def _head(document: dict[str, Any]) -> str:
    parts = [f"v{document['version']}", f"[dim]{document['id']}[/]", document["status"]]
    if document["business_key"] is not None:
        parts.append(f"key {escape(document['business_key'])}")
    if document["error"] is not None:
        parts.append(f"[red]{_message(document['error'])}[/]")
    elif document["reason"]:
        parts.append(_short(document["reason"]))
    return " ".join(parts)


def _line(step: dict[str, Any]) -> str:
    parts = [_mark(step["status"]), f"[bold]{escape(step['id'])}[/]"]
    if step.get("action", step["id"]) != step["id"]:
        parts.append(f"[dim]{escape(step['action'])}[/]")
    parts.append(step["status"])
    if step["attempts"] > 1:
        parts.append(f"attempt {step['attempts']}")
    if step["fell_back"]:
        parts.append("[yellow]fallback[/]")
    if (waiting := _waiting(step)) is not None:
        parts.append(f"[yellow]{waiting}[/]")
    if step["error"] is not None and step["status"] in ("failed", "retrying", "compensating", "compensated"):
        parts.append(f"[red]{_message(step['error'])}[/]")
    return " ".join(parts)


def _waiting(step: dict[str, Any]) -> str | None:
    until = "" if step["due_at"] is None else f" until {step['due_at']}"
    found = step["waiting_for"]
    if found is None:
        return f"again at {step['due_at']}" if step["status"] == "retrying" and step["due_at"] else None
    match found["reason"]:
        case "approval":
            who = f" by {escape(', '.join(found['roles']))}" if found.get("roles") else ""
            said = f": {_short(str(found['message']))}" if found.get("message") else ""
            return f"for an approval{who}{until}{said}"
        case "signal":
            return f"for the signal {escape(str(found['signal']))}{until}"
        case "child":
            return f"for {escape(str(found['intent']))} {found['execution_id']}"
        case "resume":
            return "to be resumed"
        case _:
            return until.strip() or None


def _add_items(branch: Tree, items: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in items["statuses"].items())
    under = branch.add(f"[dim]{items['total']} items: {counts}[/]" if counts else "[dim]no items[/]")
    told = [run for run in items["runs"] if run["status"] not in ("pending", "completed", "skipped")]
    for run in told[:ITEMS_SHOWN_MAX]:
        _add_undoing(under.add(_line(run)), run)
    if len(told) > ITEMS_SHOWN_MAX:
        under.add(f"[dim]… and {len(told) - ITEMS_SHOWN_MAX} more[/]")


def _add_undoing(branch: Tree, run: dict[str, Any]) -> None:
    undoing = run["compensation"]
    if undoing is not None:
        why = f" [red]{_message(undoing['error'])}[/]" if undoing["error"] is not None else ""
        branch.add(f"{_mark(undoing['status'])} [dim]undoing[/] {undoing['status']}{why}")


def _mark(status: str) -> str:
    style, mark = _MARKS.get(status, ("", "?"))
    return f"[{style}]{mark}[/]" if style else mark


def _message(error: dict[str, Any]) -> str:
    return _short(str(error.get("message") or error.get("code") or error))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return escape(line if len(line) <= _CHARS_MAX else line[: _CHARS_MAX - 1] + "…")
