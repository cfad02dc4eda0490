"""Wheels of locked requirements, for machines that reach no package index or are of another platform: fetched here, once for each lock.

Knows nothing of machines.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from falplan.control.indexes import without_credentials
from falplan.control.locks import Lock, pinned
from falplan.control.uvs import interpreter_of, own_version, short, unpack_uv
from falplan.core.errors import FalplanError
from falplan.core.platforms import UV, wheel_tags
from falplan.core.systems import minor_of
from falplan.runner import placing
from falplan.sdk.here import own_platform
from falplan.sdk.shell import TimedOut
from falplan.stores.files import sync_folder

TOLD = ("Collecting", "Building wheel", "Downloading")
"""What pip says that a person wants to hear."""

ANYWHERE = "-none-any.whl"
"""How the name of a wheel ends that runs on every platform."""


def ensure_wheels(cache: Path, lock: Lock, *, progress: Callable[[str], None], timeout: float = 1800.0) -> Path:
    """The folder with a wheel of every locked package, fetched or built if it is not there. May be called again, and at the same time.

    The lock is of one platform, which may be another one than this machine's.

    Raises:
        FalplanError: one can't be had, and why.
    """
    platform = lock.platform or own_platform()
    folder = cache / "wheels" / (lock.digest if platform == own_platform() else f"{lock.digest}.{platform}")
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    placing.sweep(str(folder.parent))
    with tempfile.TemporaryDirectory(prefix=f"{placing.PART}{os.getpid()}-", dir=folder.parent) as name:
        part = Path(name) / "wheels"
        part.mkdir()
        where = "" if platform == own_platform() else f" for {platform}"
        progress(f"fetching {lock.packages} wheels{where}")
        _fetch(part, lock, platform, timeout)
        for wheel in part.iterdir():
            wheel.chmod(0o644)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # somebody else was first, with the same ones
                raise
    sync_folder(folder.parent)
    return folder


def ensure_uv(cache: Path, platform: str, *, progress: Callable[[str], None], timeout: float = 600.0) -> Path:
    """The program uv for another platform, of the version that runs here; fetched if it is not there. May be called again.

    Raises:
        FalplanError: it can't be had, and why.
    """
    target = cache / "uv" / f"{own_version()}-{platform}" / "uv"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        progress(f"fetching uv for {platform}")
        python = f"{sys.version_info.major}.{sys.version_info.minor}"  # any will do: it holds a program
        done = _download(Path(name), [f"uv=={own_version()}"], platform, python, timeout)
        if done.returncode:
            raise _unfetched(f"uv for {platform} can't be fetched", done)
        unpack_uv(next(Path(name).glob("*.whl")), target)
    return target


def remove_wheels_except(cache: Path, needed: set[str]) -> None:
    """Remove those of locks that nobody needs."""
    for folder in (cache / "wheels").glob("*"):
        if folder.name.partition(".")[0] not in needed and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(folder: Path, lock: Lock, platform: str, timeout: float) -> None:
    python = _interpreter(lock.python, timeout)
    if platform != own_platform() or not python:
        _fetch_for(folder, lock, platform, python or sys.executable, timeout)
        return
    done = _wheel(folder, lock.text, python, timeout)
    if done.returncode:
        raise _unfetched("The wheels can't be fetched", done)


def _interpreter(version: str, timeout: float) -> str:
    """This machine's Python of a version; empty if there is none: wheels are fetched without it."""
    try:
        return interpreter_of(version, timeout)
    except FalplanError:
        return ""


def _fetch_for(folder: Path, lock: Lock, platform: str, python: str, timeout: float) -> None:
    """Wheels for a platform and a Python that this machine may not have. What there is no wheel of is built, if it runs anywhere then."""
    if platform not in UV:
        raise FalplanError("No wheels are fetched for that platform", f"{platform} is none of {', '.join(UV)}.")
    lines = pinned(lock.text)
    if not lines or _download(folder, lines, platform, lock.python, timeout).returncode == 0:
        return
    for line in lines:
        if "git+" not in line and _download(folder, [line], platform, lock.python, timeout).returncode == 0:
            continue
        _build(folder, line, platform, python, timeout)


def _build(folder: Path, line: str, platform: str, python: str, timeout: float) -> None:
    """Build a wheel here of what there is no wheel of.

    Raises:
        FalplanError: it can't be built, or runs here alone.
    """
    before = set(folder.iterdir())
    done = _wheel(folder, line, python, timeout)
    made = set(folder.iterdir()) - before
    if done.returncode == 0 and all(wheel.name.endswith(ANYWHERE) for wheel in made):
        return
    name = without_credentials(line.split(" --hash")[0].strip())
    why = (
        "its source makes a wheel for this machine alone" if done.returncode == 0 else short(done.stderr or done.stdout)
    )
    advice = (
        "Ask for a version that has one, leave these hosts out of the app's `regions`, or let them reach an index, where it is built "
        "on the host."
    )
    raise FalplanError(f"There is no wheel for {platform}", f"{name}: there is none, and {why}\n{advice}")


def _download(
    folder: Path, lines: Sequence[str], platform: str, python: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    argv = ["download", "--only-binary", ":all:", "--implementation", "cp", "--python-version", minor_of(python)]
    for tag in wheel_tags(platform):
        argv += ["--platform", tag]
    return _pip([*argv, "--dest", str(folder)], "\n".join(lines), timeout)


def _wheel(folder: Path, text: str, python: str, timeout: float) -> subprocess.CompletedProcess[str]:
    return _pip(["wheel", "--wheel-dir", str(folder)], text, timeout, before=["--python", python])


def _pip(
    argv: Sequence[str], text: str, timeout: float, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run pip for these requirements.

    Raises:
        TimedOut: it did not end in time.
    """
    general = ["--disable-pip-version-check", "--no-input", *before]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "requirements.txt")
        file.write_text(text)
        more = ["--no-deps", "--no-cache-dir", "--progress-bar", "off", "-r", str(file)]
        try:
            return subprocess.run(
                [sys.executable, "-m", "pip", *general, *argv, *more],
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


def _unfetched(summary: str, done: subprocess.CompletedProcess[str]) -> FalplanError:
    detail = f"{short(done.stderr or done.stdout)}\nThe control plane's machine has to reach a package index."
    return FalplanError(summary, without_credentials(detail))


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
