"""Puts this falplan on another machine, with all that it needs, so that a control plane can run there. Starts nothing.

Each release lies in an environment of its own, beside the others: one that runs is not touched.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from falplan.control import environments
from falplan.control.bundle_store import BundleStore
from falplan.control.locks import Lock, lock_requirements
from falplan.control.station import Station
from falplan.core.errors import FalplanError
from falplan.core.spec.resolved import AppKind
from falplan.sdk.here import own_platform
from falplan.sdk.shell import Shell
from falplan.sdk.values import Command
from falplan.stores.home import ControlHome
from falplan.stores.release import this_release

OLDEST = (3, 11)
"""The Python that falplan needs."""

PACKAGES = ("falplan", "falplan_providers")
Say = Callable[[str], None]


def install(shell: Shell, root: str, platform: str, cache: Path, say: Say, *, pushes: bool = False) -> str:
    """Put this falplan below `root` on a machine, and return its interpreter there. May be called again.

    `platform` is the machine's, as `linux-x86_64`; `cache` is a folder here; `pushes`: the machine reaches no package index.

    Raises:
        FalplanError: there is no Python that is new enough, or what falplan needs can't be had there.
    """
    if platform != own_platform():
        ours = own_platform()
        detail = f"It is {platform}, and what falplan needs is known here for {ours} alone. Apply from such a machine."
        raise FalplanError("The control plane can't be put on that machine", detail)
    station = Station(ControlHome(cache), shell, root, BundleStore(cache / "bundles"), elsewhere=True, pushes=pushes)
    python = _version_there(shell, station.uv(say), root)
    lock = lock_requirements(
        requirements_here(), python=python, cache=cache, cwd=Path("/"), kind=AppKind.COMMAND, progress=say
    )
    code = this_release().code
    key = _key(lock, code)
    if not environments.has_environment(shell, root, key):
        say(f"putting falplan {this_release()} there, for Python {python}")
    interpreter = station.ensure(lock, say, key)
    with _code() as folder:
        shell.put_tree(folder, f"{root}/releases/{code}")
    site = f"{interpreter.removesuffix('/bin/python')}/lib/python{python}/site-packages"
    shell.write_file(f"{site}/falplan.pth", f"{root}/releases/{code}\n".encode(), 0o644)
    return interpreter


def requirements_here() -> list[str]:
    """What falplan needs, as it is installed here: `name==version`, sorted."""
    found: dict[str, str] = {}
    wanted = ["falplan"]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        try:
            there = distribution(name)
        except PackageNotFoundError:
            detail = f"{name} is not among what is installed here. Install falplan with pip, or run `make check` in its checkout."
            raise FalplanError("Falplan is not installed whole", detail) from None
        found[name] = there.version
        for line in there.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                wanted += [needed.name, *_extras(needed)]
    del found["falplan"]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _extras(needed: Requirement) -> Iterator[str]:
    """Names of what the extras of a requirement ask for."""
    for extra in needed.extras:
        for line in distribution(needed.name).requires or ():
            one = Requirement(line)
            if one.marker is not None and one.marker.evaluate({"extra": extra}):
                yield one.name


def _key(lock: Lock, code: str) -> str:
    """The environment's name: begins with the release, of which each has one."""
    return f"{code}-{environments.environment_key(lock.text, lock.python, own_platform())}"


def _version_there(shell: Shell, uv: str, root: str) -> str:
    """The Python to use there: ours if there is one, else the newest that is new enough."""
    argv = (uv, "python", "list", "--only-installed", "--no-python-downloads", "--output-format", "json")
    done = shell.run(Command(argv, env={"UV_CACHE_DIR": f"{root}/uv/cache"}, timeout=60, repeatable=True))
    listed = json.loads(done.stdout or b"[]") if done.code == 0 else []
    there = {Version(p["version"]).release[:2] for p in listed if p.get("implementation") == "cpython"}
    able = sorted(v for v in there if v >= OLDEST)
    if not able:
        names = ", ".join(".".join(map(str, v)) for v in sorted(there)) or "none"
        detail = f"The control plane needs Python 3.11 or newer; there is {names}. {FIX}"
        raise FalplanError("Python is too old for a control plane there", detail)
    own = sys.version_info[:2]
    return ".".join(map(str, own if own in able else able[-1]))


FIX = "Install one: `apt-get install python3.11`, `dnf install python3.11`, or `uv python install 3.11` as the user who logs in."


@contextmanager
def _code() -> Iterator[Path]:
    """A folder with falplan's own packages as they are here, and nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package in PACKAGES:
            found = util.find_spec(package)
            for place in (found.submodule_search_locations or ()) if found else ():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(place, folder / package, ignore=ignored, dirs_exist_ok=True)
        yield folder
