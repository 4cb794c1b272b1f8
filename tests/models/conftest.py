"""Fixtures of these tests."""

from tests.stand_in import stand_in

__all__ = ["stand_in"]
