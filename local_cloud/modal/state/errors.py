"""Errors of the state, each the platform's own kind of refusal.

StateError
  x NotFound        gRPC NOT_FOUND: the client raises modal.exception.NotFoundError
  x AlreadyExists   gRPC ALREADY_EXISTS: AlreadyExistsError
  x Invalid         gRPC INVALID_ARGUMENT: InvalidError
  x Conflict        gRPC FAILED_PRECONDITION: ConflictError

The texts are what the user of `modal` reads.
"""

from __future__ import annotations

__all__ = ["AlreadyExists", "Conflict", "Invalid", "NotFound", "StateError"]


class StateError(Exception):
    """Refused, with a text for the user."""


class NotFound(StateError):  # noqa: N818 - these are named as the gRPC statuses that they become
    """What was asked for does not exist."""


class AlreadyExists(StateError):  # noqa: N818
    """What was to be created exists."""


class Invalid(StateError):  # noqa: N818
    """The request makes no sense."""


class Conflict(StateError):  # noqa: N818
    """The thing is in a state in which this cannot be done."""
