"""One environment with fal in it, shared by all tests of this user."""

from __future__ import annotations

import os
from pathlib import Path

from falplan.control.environments import ensure_environment, environment_key
from falplan.control.locks import lock_requirements
from falplan.sdk.here import own_platform
from falplan_providers.local import LocalShell


def fal_environment() -> Path:
    """The interpreter of an environment that serves fal.App files. Built the first time; later calls take no time."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "falplan-tests"
    lock = lock_requirements([], python=None, cache=root, cwd=root.parent)
    key = environment_key(lock.text, lock.python, own_platform())
    return Path(ensure_environment(LocalShell(), str(root), key, lock))
