# intent_ref: commands.expressions
"""What can be wrong with an expression, as errors that end in a sentence for its author."""

EXPRESSION_BYTES_MAX = 4_096
EXPRESSIONS_MAX = 200
TOKENS_MAX = 1_000
NESTING_MAX = 24
DEPTH_MAX = 64
RESULT_BYTES_MAX = 262_144
WORK_MAX = 200_000
"""Units of work for all expressions of one value: a part evaluated in a loop, an element made or compared, 32 characters."""


class SyntaxFault(ValueError):
    """The text is no expression; `at` is the place in it, in characters from 0."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


class EvaluationFault(ValueError):
    """The expression has no value over this scope. `a || b` and `a && b` may still have one where the other side decides."""


class WorkExceeded(Exception):
    """The expressions of a value ask for more than `WORK_MAX`; nothing that an expression says keeps it from ending."""

    def __init__(self) -> None:
        super().__init__(f"This takes more than {WORK_MAX:,} units of work: loop over less, or let a module of your own do it.")


class ExpressionFailed(Exception):
    """An expression of a value that has no value: `pointer` says which, `message` why, as a sentence."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer, self.message = pointer, message
