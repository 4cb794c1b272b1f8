"""The one error that an operator sees as one line."""

__all__ = ["OperatorError"]


class OperatorError(Exception):
    """`what happened: what was expected: what to do`, in one line."""
