"""Labs that a machine may not be able to make: a test is skipped there with the reason, and fails in CI where the part could be installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest

from tests.faults.sandbox import Missing

T = TypeVar("T")


@contextlib.contextmanager
def needed(lab: AbstractContextManager[T]) -> Iterator[T]:
    """Enter it, for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(lab)
        except Missing as exc:
            if exc.installable and os.environ.get("CI") == "true":
                raise
            pytest.skip(str(exc))
        yield made
