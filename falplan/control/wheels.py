"""Wheels of locked requirements, for machines that reach no package index: fetched here, once for each lock. Knows nothing of machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from falplan.control.environments import Lock, interpreter_of, short
from falplan.control.indexes import without_credentials
from falplan.core.errors import FalplanError
from falplan.runner import placing
from falplan.sdk.shell import TimedOut
from falplan.stores.files import sync_folder

TOLD = ("Collecting", "Building wheel", "Downloading")
"""What pip says that a person wants to hear."""


def ensure_wheels(cache: Path, lock: Lock, *, progress: Callable[[str], None], timeout: float = 1800.0) -> Path:
    """The folder with a wheel of every locked package, fetched or built if it is not there. May be called again, and at the same time.

    Raises:
        FalplanError: one can't be had, in pip's words.
    """
    folder = cache / "wheels" / lock.digest
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    placing.sweep(str(folder.parent))
    with tempfile.TemporaryDirectory(prefix=f"{placing.PART}{os.getpid()}-", dir=folder.parent) as name:
        part = Path(name) / "wheels"
        part.mkdir()
        file = Path(name) / "requirements.txt"
        file.write_text(lock.text)
        progress(f"fetching {lock.packages} wheels")
        _fetch(part, file, lock, timeout)
        for wheel in part.iterdir():
            wheel.chmod(0o644)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # somebody else was first, with the same ones
                raise
    sync_folder(folder.parent)
    return folder


def remove_wheels_except(cache: Path, needed: set[str]) -> None:
    """Remove those of locks that nobody needs."""
    for folder in (cache / "wheels").glob("*"):
        if folder.name not in needed and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(folder: Path, file: Path, lock: Lock, timeout: float) -> None:
    python = interpreter_of(lock.python, timeout)
    argv = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--no-input", "wheel"]
    argv += ["--no-deps", "--no-cache-dir", "--progress-bar", "off", "--wheel-dir", str(folder), "-r", str(file)]
    try:
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **pip_environment(os.environ)},
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(
            "pip took too long", f"It was ended after {timeout:g} s. Is the package index reachable?"
        ) from None
    if done.returncode:
        detail = f"{short(done.stderr or done.stdout)}\nThe control plane's machine has to reach a package index."
        raise FalplanError("The wheels can't be fetched", without_credentials(detail))


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for pip that say what uv was told of indexes; what pip itself was told stands."""
    found: dict[str, str] = {}
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    more = " ".join(filter(None, (environ.get("UV_EXTRA_INDEX_URL"), _without_names(environ.get("UV_INDEX", "")))))
    if default:
        found["PIP_INDEX_URL"] = _without_names(default)
    if more:
        found["PIP_EXTRA_INDEX_URL"] = more
    if environ.get("UV_FIND_LINKS"):
        found["PIP_FIND_LINKS"] = environ["UV_FIND_LINKS"].replace(",", " ")
    return found


def _without_names(indexes: str) -> str:
    """`name=https://…` is how uv names an index."""
    return " ".join(i.partition("=")[2] if "=" in i.partition("://")[0] else i for i in indexes.split())
