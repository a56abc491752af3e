# intent_ref: commands.expressions
"""CEL expressions in `${{ … }}`, over what an execution knows: pure, bounded, and the same at every replay.

Scope: `inputs`; `steps.<id>` with `result`, `status` and `error`; `execution` with `id`, `intent_name`, `version`, `started_at`
and `target`; `tenant` with `id`; within a `foreach` also `item` and `index`; for a trigger `event`, for a
schedule `schedule.time`.

The interpreter is our own small one: the expressions are tenants', and the package there is cannot be bounded. That one, in
Rust (`common-expression-language` 0.10), copies the list so far on each round of `map` (2,000 objects 1.7 s, 100,000 numbers
280 s, the event loop held), has no limit of work, takes the process down where a thread's stack is small, and counts bytes in
`size`. Here 1,000 objects take 2 ms, and what would take longer than some 0.15 s is refused, at the same place on every
machine. Tests hold the two against each other. Beyond CEL: integers and reals may meet in arithmetic.
"""

from commands.expressions.checks import condition_faults, expression_faults
from commands.expressions.faults import ExpressionFailed
from commands.expressions.templates import CompiledValue, compile_value, condition, evaluate, has_expressions

__all__ = [
    "CompiledValue", "ExpressionFailed", "compile_value", "condition", "condition_faults", "evaluate", "expression_faults",
    "has_expressions",
]  # fmt: skip
