"""What every test shares: no colour, no proxies, a home of its own, hypothesis without deadlines."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import leftovers
from tests.lab.conftest_loopback import make_host

settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("falplan", settings.get_profile("thorough"), max_examples=40)
settings.load_profile("falplan")  # `make faults` tries all properties with the other one's 100 examples

if "PYTEST_XDIST_WORKER" in os.environ and os.environ.get("COVER") != "all":
    # What a test starts is not measured: that more than doubles the time of each command. `make test COVER=all` measures it.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# Compiling what it imports is a third of the time of each command that a test starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and what a test starts and then interrupts would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if Path(shutil.which("python3") or "").parent.name == "shims":
    # A version manager's python3 is a script that starts a dozen shells before the real one.
    os.environ["PATH"] = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"

if shutil.which("initdb") is None:
    # Debian keeps a server's programs off the path, a folder for each version.
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        os.environ["PATH"] = f"{found}:{os.environ['PATH']}"

__all__ = ["make_host"]

if "/usr/sbin" not in os.environ["PATH"].split(os.pathsep) and Path("/usr/sbin").is_dir():
    # Not on an ordinary user's path.
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin"

NEEDS = {
    "openssh-server": "sshd",
    "chromium": "chromium",
    "postgresql": "initdb",
    "iproute2": "ip",
    "systemd-container": "systemd-nspawn",
    "docker.io": "dockerd",
    "docker-registry": "docker-registry",
}
"""System part -> the program that shows it is there."""


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the developer's shell reaches a test, and no other test's runners take its room."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name.startswith(("FAL_", "FALPLAN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FALPLAN_MACHINE_DIR", str(tmp_path_factory.mktemp("ledger")))
    monkeypatch.setenv("FALPLAN_NO_CACHE", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("home")))


BEFORE = pytest.StashKey[leftovers.Snapshot]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the workers start: look what is here."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        leftovers.mark()
        session.config.stash[BEFORE] = leftovers.take()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After all tests nothing of theirs may be left: no process, port, socket or folder."""
    before = session.config.stash.get(BEFORE, None)
    if before is None:
        return
    found = leftovers.left_since(before)
    if found:
        print("\nThe tests left behind (or another run beside this one has it):", *found, sep="\n  ")
        if os.environ.get("CI") == "true":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that deploy take the longest: they come first, so that no worker begins one when the others have nothing left."""
    items.sort(key=lambda item: "acceptance" not in item.path.parts)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A missing system part skips by name, and fails where CI=true promises it."""
    for mark in item.iter_markers("needs"):
        part = str(mark.args[0])
        if shutil.which(NEEDS.get(part, part)) is None:
            message = f"needs {part}, which is not installed"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
    if item.get_closest_marker("gpu") and not has_gpu():
        pytest.skip("needs an NVIDIA GPU (/dev/nvidia0) and a driver that answers nvidia-smi")


@functools.cache
def has_gpu() -> bool:
    """Whether this machine has a GPU that works. Nobody promises one, not even CI."""
    program = shutil.which("nvidia-smi")
    if program is None or not Path("/dev/nvidia0").exists():
        return False
    return subprocess.run([program, "-L"], capture_output=True, check=False, timeout=60).returncode == 0


@pytest.fixture
def short_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a unix socket's name."""
    return tmp_path_factory.mktemp("t")
