"""uv: run here, and fetched for machines of other platforms. Knows nothing of what it does."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from uv import find_uv_bin

from falplan.control.indexes import home_folder, uv_environment, without_credentials
from falplan.core.errors import FalplanError
from falplan.sdk.shell import TimedOut


def run_uv(argv: Sequence[str], stdin: str, cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run it on this machine, with the package indexes of this user.

    Raises:
        TimedOut: it did not end within `timeout` seconds.
    """
    env = {**os.environ, **uv_environment(os.environ, home_folder()), "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    env.pop("VIRTUAL_ENV", None)
    try:
        return subprocess.run(
            [find_uv_bin(), *argv],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=cwd,
            env=env,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(
            "uv took too long", f"It was ended after {timeout:g} s. Is the package index reachable?"
        ) from None


def interpreter_of(version: str, timeout: float) -> str:
    """This machine's Python of a version.

    Raises:
        FalplanError: there is none, and which there are.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = run_uv(["python", "find", "--system", "--no-project", version], "", Path("/"), timeout)
    if found.returncode != 0:
        listed = run_uv(["python", "list", "--only-installed", "--output-format", "json"], "", Path("/"), timeout)
        there = sorted({p["version"] for p in json.loads(listed.stdout or "[]")})
        raise FalplanError(
            "Python is missing",
            f"The app asks for Python {version}; this machine has {', '.join(there) or 'none'}. "
            "Install that version, or set python_version to one that is there.",
        )
    return found.stdout.strip()


def short(text: str, lines: int = 15, size: int = 1500) -> str:
    """The end of what a tool said, without credentials."""
    kept = [line.rstrip() for line in without_credentials(text).splitlines() if line.strip()]
    return "\n".join(kept[-lines:])[-size:] or "uv said nothing"


def own_version() -> str:
    return importlib.metadata.version("uv")


def unpack_uv(wheel: Path, target: Path) -> None:
    """Take the program out of a wheel of uv. Whole, or not there."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".data/scripts/uv"))
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(archive.read(name))
        Path(file.name).chmod(0o755)
        Path(file.name).replace(target)
