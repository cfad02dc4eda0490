"""Another falplan takes over the control plane: nobody who calls notices, and one that can't is taken back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import urllib3
from uv import find_uv_bin

from tests.acceptance.load import Load
from tests.acceptance.releases import NEXT, ROOT, break_, installed
from tests.faults.sandbox import Sandbox, wait_until


def pids(box: Sandbox) -> set[int]:
    return {p.pid for processes in box.runner_marks().values() for p in processes}


def release(box: Sandbox) -> str:
    return str(json.loads(box.must("state", "show", "gateway", "--json").out)["inputs"]["falplan"])


def check_upgrade_under_load(box: Sandbox, old: Path, new: Path | Callable[[], Path]) -> None:
    """Deploy with one falplan, apply with another under twenty callers; nobody notices, the runners are the same."""
    box.falplan = (str(old), "-m", "falplan")
    box.least = box.most = 2
    box.write()
    box.must("apply", "--auto-approve")
    before, was = pids(box), release(box)
    load = Load(box, callers=20)
    load.start()
    wait_until(lambda: sum(load.versions.values()) > 50, 30)
    box.falplan = (str(new if isinstance(new, Path) else new()), "-m", "falplan")
    plan = box.must("plan").out
    ran = box.must("apply", "--auto-approve")
    answered = sum(load.versions.values())
    wait_until(lambda: sum(load.versions.values()) > answered + 50, 30)
    load.stop()

    assert "upgraded side by side" in plan
    assert "side by side" in ran.err
    assert load.failures == []
    assert pids(box) == before
    assert release(box) != was
    wait_until(lambda: len(box.processes("serve")) == 1, 30)
    box.check_converged()
    box.destroy()


@pytest.mark.faults
def test_an_upgrade_under_load_fails_no_call_and_touches_no_runner(box: Sandbox, newer: Path) -> None:
    """Seen red with a successor that listens on a socket of its own: connections were refused."""
    check_upgrade_under_load(box, Path(sys.executable), newer)


@pytest.mark.faults
def test_the_previous_commit_is_upgraded_under_load(box: Sandbox, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    git = ["git", "-C", str(ROOT)]
    changed = [*git, "rev-list", "-n", "1", "HEAD", "--", "falplan", "providers"]
    newest = subprocess.run(changed, capture_output=True, text=True, check=False).stdout.strip()
    archive = subprocess.run([*git, "archive", f"{newest}~1"], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip("there is no commit before the newest that changed falplan here")
    subprocess.run(["tar", "-x", "-C", str(sources)], input=archive.stdout, check=True)
    if not (sources / "falplan" / "cli" / "successor.py").exists():
        pytest.skip("the previous commit can't hand over yet")
    check_upgrade_under_load(box, installed(sources, tmp_path), Path(sys.executable))


@pytest.mark.faults
def test_files_replaced_under_a_running_control_plane_are_not_missed(box: Sandbox, tmp_path: Path) -> None:
    """After `pip install -U` nothing of what was started is on the disk any more, and what is there may not fit it.

    Seen red with a control plane that imports what it makes backups with when it makes one.
    """
    old, other = installed(ROOT, tmp_path / "old"), installed(ROOT, tmp_path / "other")
    box.falplan = (str(old), "-m", "falplan")
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    (packages,) = old.parents[1].glob("lib/python*/site-packages")
    for package in ("falplan", "falplan_providers"):
        for path in (packages / package).rglob("*.py"):
            path.write_text("raise ImportError('replaced')\n")
    box.falplan = (str(other), "-m", "falplan")
    load = Load(box, callers=5)
    load.start()
    wait_until(lambda: sum(load.versions.values()) > 10, 30)
    serving = box.processes("serve")

    box.version += 1
    box.write()
    box.check_converged()
    key = json.loads(box.must("keys", "create", "--json").out)["key_id"]
    box.must("keys", "revoke", key)
    box.must("call", "two", '{"n": 1}')
    box.must("runners", "stop", next(iter(box.runner_marks())))
    box.must("backup", str(tmp_path / "backup.tar.gz"))
    box.must("prune")
    box.must("runners", "list", "--all")
    load.stop()
    assert load.failures == []
    assert box.processes("serve") == serving
    box.destroy()


@pytest.mark.faults
def test_the_package_is_upgraded_in_place_under_load(box: Sandbox, sources: Path, tmp_path: Path) -> None:
    """`pip install -U` into the environment that the control plane runs from, then apply: nobody notices, runners stay."""
    python = installed(ROOT, tmp_path)

    def upgrade() -> Path:
        argv = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--upgrade"]
        subprocess.run([*argv, str(sources)], check=True)
        return python

    check_upgrade_under_load(box, python, upgrade)


BROKEN = {
    "before it is loaded": ("falplan/cli/plane.py", "\nraise SystemExit('broken on purpose')\n"),
    "before it serves": ("falplan/control/world.py", "\nWorld.load = None\n"),
    "when it is asked whether it is well": ("falplan/cli/plane.py", "\nPlane.check = None\n"),
}


@pytest.mark.faults
@pytest.mark.parametrize("moment", BROKEN)
def test_a_successor_that_fails_is_taken_back(box: Sandbox, sources: Path, tmp_path: Path, moment: str) -> None:
    """Seen red with an old control plane that ended as soon as it had said "go": nobody answered any more."""
    broken = installed(sources, tmp_path)
    break_(broken, *BROKEN[moment])
    box.must("apply", "--auto-approve")
    before, was = pids(box), release(box)
    load = Load(box, callers=5)
    load.start()
    wait_until(lambda: sum(load.versions.values()) > 10, 30)
    box.falplan = (str(broken), "-m", "falplan")
    ran = box.run("apply", "--auto-approve")
    box.falplan = (sys.executable, "-m", "falplan")
    answered = sum(load.versions.values())
    wait_until(lambda: sum(load.versions.values()) > answered + 10, 30)
    load.stop()

    assert ran.code == 1, ran.err
    assert "The old one serves on" in ran.err
    assert load.failures == []
    assert before <= pids(box)
    wait_until(lambda: len(box.processes("serve")) == 1, 30)
    box.check_converged()
    assert release(box) == was
    box.destroy()


def slowly(pool: urllib3.PoolManager, url: str) -> None:
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        pool.request("POST", url, json={"sleep": 100})


@pytest.mark.faults
def test_a_successor_that_dies_later_is_followed_while_the_one_before_it_still_finishes_a_call(
    box: Sandbox, newer: Path
) -> None:
    """Seen red: the old one kept the folder's lock and the port, and nobody served for as long as its last call lasted."""
    box.must("apply", "--auto-approve")
    (old,) = box.processes("serve")
    direct = Load(box, callers=1)
    slow = threading.Thread(target=slowly, args=(direct.pool, direct.run), daemon=True)
    slow.start()
    wait_until(lambda: any(r["in_flight"] for r in json.loads(box.must("runners", "list", "--json").out)), 20)
    box.falplan = (str(newer), "-m", "falplan")
    box.must("apply", "--auto-approve")
    (successor,) = (p for p in box.processes("any") if "--handover" in p.cmdline())
    successor.kill()
    wait_until(lambda: not successor.is_running() or successor.status() == psutil.STATUS_ZOMBIE, 10)
    box.must("apply", "--auto-approve")
    called = box.must("call", "one", "{}")

    assert old.is_running() and slow.is_alive(), "it ended before it was needed for this test"
    assert "version" in called.out
    box.destroy()


def test_an_older_falplan_changes_nothing(box: Sandbox, newer: Path) -> None:
    box.falplan = (str(newer), "-m", "falplan")
    box.must("apply", "--auto-approve")
    box.falplan = (sys.executable, "-m", "falplan")

    assert box.run("plan", "--detailed-exitcode").code == 0
    assert NEXT in release(box)
