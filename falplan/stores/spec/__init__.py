"""The spec on disk: files in, a resolved spec or positioned findings out."""

from __future__ import annotations

from falplan.stores.spec.load import load_spec

__all__ = ["load_spec"]
