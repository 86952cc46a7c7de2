"""Parameters of which only some belong to the fast tests."""

from collections.abc import Collection, Iterable

import pytest


def slow_unless_quick(cases: Iterable, quick: Collection) -> list:
    """Parameters for `pytest.mark.parametrize`; those that are not in `quick` are marked slow."""
    return [case if case in quick else _slow(case) for case in cases]


def _slow(case):
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
