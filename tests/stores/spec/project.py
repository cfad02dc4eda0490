"""Builds small projects on disk and loads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import Diagnostic, SpecInvalid
from falplan.core.spec.resolved import ResolvedApp, ResolvedSpec
from falplan.stores.spec import load_spec

HEAD = "version: 1\nproject: demo\n"
APP = "import fal\n\n\nclass App(fal.App):\n    pass\n"
COMMAND = "apps:\n  web:\n    command: serve\n"


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write the files below the folder and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def load(folder: Path, spec: str, files: Mapping[str, str | bytes] | None = None, **more: Any) -> ResolvedSpec:
    """Load a spec written as falplan.yaml, with other files beside it."""
    return load_spec(write(folder, {"falplan.yaml": spec, **(files or {})}), **more)


def findings(
    folder: Path, spec: str | bytes, files: Mapping[str, str | bytes] | None = None, **more: Any
) -> tuple[Diagnostic, ...]:
    """What is wrong with the spec; fails if nothing is."""
    write(folder, {"falplan.yaml": spec, **(files or {})})
    with pytest.raises(SpecInvalid) as caught:
        load_spec(folder, **more)
    return caught.value.diagnostics


def apps_of(spec: ResolvedSpec) -> dict[str, ResolvedApp]:
    """Apps by address."""
    return {app.address: app for app in spec.apps}


def value_of(app: ResolvedApp, setting: str) -> Any:
    """The value of a setting."""
    return app.settings[setting].value
