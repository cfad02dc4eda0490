"""The spec on disk: files in, a resolved spec or positioned findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falplan.stores.spec.load import load_spec

__all__ = ["load_spec"]


def __getattr__(name: str) -> object:
    """`load_spec`, and with it models and YAML, once somebody asks for it: who finds a spec in the cache needs neither."""
    if name != "load_spec":
        raise AttributeError(name)
    from falplan.stores.spec.load import load_spec

    return load_spec
