"""`falplan backup` and `restore` with real control planes: a running one, a stopped one, one that was killed in the middle."""

from __future__ import annotations

import json
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import urllib3

from falplan.stores.backup.read import check_backup
from falplan.stores.exchange import INTENT
from tests.faults.sandbox import PATIENCE, Sandbox, client_environ, wait_until

pytestmark = pytest.mark.faults

POINTS = [
    "restore.unpack.before",
    "restore.unpack.after",
    "restore.exchange.before",
    "restore.save.before_write",
    "restore.save.before_fsync",
    "restore.save.before_rename",
    "restore.save.after_rename",
    "restore.move.before",
    "restore.move.after",
    "restore.move.after@4",
    "restore.intent.before_removed",
    "restore.intent.after_removed",
]


def home_of(box: Sandbox) -> Path:
    [folder] = (box.folder / "state" / "falplan").iterdir()
    return folder


def submitted(box: Sandbox, n: int) -> tuple[str, dict[str, str]]:
    """A queued request's status URL, and the headers that ask for it."""
    values = dict(client_environ(box))
    headers = {"authorization": f"Key {values['FAL_KEY']}"}
    pool = urllib3.PoolManager(ca_certs=values["SSL_CERT_FILE"], headers=headers)
    url = f"https://{values['FAL_QUEUE_RUN_HOST']}/acme/two"
    answer: dict[str, Any] = pool.request("POST", url, json={"n": n, "sleep": 1}, timeout=30).json()
    return str(answer["status_url"]), values


def status(url: str, values: dict[str, str]) -> int:
    headers = {"authorization": f"Key {values['FAL_KEY']}"}
    pool = urllib3.PoolManager(ca_certs=values["SSL_CERT_FILE"], headers=headers, retries=False)
    return int(pool.request("GET", url, timeout=30).status)


def test_a_backup_of_a_running_control_plane_brings_its_queue_keys_and_apps_back(box: Sandbox) -> None:
    """The data folder is lost; the backup and `apply` bring back what callers know: the address, the keys, their requests."""
    box.must("apply", "--auto-approve")
    url, values = submitted(box, 1)
    key = json.loads(box.must("keys", "create", "--json").out)
    told = box.must("backup", "b.tar.gz")
    file = box.project / "b.tar.gz"

    assert "contains keys" in told.out
    assert f"({file.stat().st_size:,} bytes)" in told.out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(home_of(box).glob(".backup-*"))

    box.kill_control_plane()
    for process in box.processes("any"):
        process.kill()
    shutil.copytree(home_of(box) / "tls", box.folder / "tls-before")
    folder = home_of(box)
    shutil.rmtree(folder / "tls")
    for name in ("control.db", "admin.key", "api.key", "gateway.json"):
        (folder / name).unlink()
    box.must("restore", "b.tar.gz")
    box.must("apply", "--auto-approve")

    assert client_environ(box) == values
    wait_until(lambda: status(url, values) == 200, 30)  # completed before the backup, or done now
    assert key["key_id"] in box.must("keys", "list").out
    assert (folder / "tls" / "ca.pem").read_bytes() == (box.folder / "tls-before" / "ca.pem").read_bytes()
    box.check_converged()
    box.destroy()


def test_a_stopped_control_plane_is_backed_up_from_its_folder_and_the_old_data_are_kept(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    made = json.loads(box.must("backup", "--json").out)
    assert check_backup(Path(made["file"])).lineage == home_of(box).name

    box.must("apply", "--auto-approve")
    later = json.loads(box.must("keys", "create", "--json").out)
    running = box.run("restore", made["file"])
    assert running.code == 4, running.err
    assert "control plane runs" in running.err

    box.kill_control_plane()
    told = box.must("restore", made["file"])
    assert "before-restore-" in told.out
    box.must("apply", "--auto-approve")
    assert later["key_id"] not in box.must("keys", "list").out
    assert list(home_of(box).glob("before-restore-*/control.db"))
    box.check_converged()
    box.destroy()


def test_destroy_makes_a_backup_first_or_destroys_nothing(box: Sandbox) -> None:
    """Seen red with a destroy that went on after a backup which could not be written."""
    box.must("apply", "--auto-approve")
    box.must("keys", "create", "--desc", "for a client")
    refused = box.run("destroy", "--auto-approve", "--backup", "nowhere/last.tar.gz")
    still = box.run("plan", "--detailed-exitcode")
    ran = box.must("destroy", "--auto-approve", "--backup", "last.tar.gz")
    box.check_nothing_left()
    box.must("restore", "last.tar.gz")
    box.check_converged()

    assert (refused.code, "could not be written" in refused.err) == (1, True)
    assert still.code == 0
    assert "last.tar.gz" in ran.out
    assert "for a client" in box.must("keys", "list").out
    box.destroy()


def test_a_backup_of_another_project_or_a_damaged_one_is_refused_and_nothing_is_touched(box: Sandbox) -> None:
    """Seen red with a restore that did not look at the lineage."""
    box.must("apply", "--auto-approve")
    box.must("backup", "mine.tar.gz")
    box.kill_control_plane()
    other = Sandbox()
    try:
        other.must("apply", "--auto-approve")
        other.must("backup", "theirs.tar.gz")
        shutil.copy(other.project / "theirs.tar.gz", box.project)
    finally:
        other.clean()
    content = (box.project / "mine.tar.gz").read_bytes()
    (box.project / "cut.tar.gz").write_bytes(content[: len(content) // 2])
    before = {p.name: p.stat().st_mtime_ns for p in home_of(box).iterdir() if p.name != "lock"}

    for name in ("theirs.tar.gz", "cut.tar.gz", "falplan.yaml", "none.tar.gz"):
        ran = box.run("restore", name)
        assert ran.code == 6, (name, ran.err)
    assert {p.name: p.stat().st_mtime_ns for p in home_of(box).iterdir() if p.name != "lock"} == before


def test_a_backup_that_can_not_be_written_leaves_the_one_before(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    box.must("backup", "b.tar.gz")
    before = (box.project / "b.tar.gz").read_bytes()
    failed = box.run("backup", "b.tar.gz", FALPLAN_FAILPOINTS="backup.file.before_fsync=raise")
    assert failed.code == 1, failed.err
    assert (box.project / "b.tar.gz").read_bytes() == before
    for point in ("backup.file.before_fsync", "backup.file.before_rename"):
        box.run("backup", "b.tar.gz", FALPLAN_FAILPOINTS=f"{point}=kill")
        assert (box.project / "b.tar.gz").read_bytes() == before
    box.must("backup", "b.tar.gz")
    check_backup(box.project / "b.tar.gz")
    assert not list(box.project.glob(".*.new"))


@pytest.mark.timeout(PATIENCE * 3)
def test_a_restore_killed_at_any_point_is_finished_by_the_next_start(box: Sandbox) -> None:
    """The command itself, killed at each of its failpoints; then `apply`, without running it again, and with.

    Seen red with a control plane that did not finish an exchange that it found.
    """
    box.must("apply", "--auto-approve")
    box.must("backup", "b.tar.gz")
    identity = json.loads(box.must("show", "--json").out)
    for number, point in enumerate(POINTS):
        box.kill_control_plane()
        name, _, nth = point.partition("@")
        ran = box.run("restore", "b.tar.gz", FALPLAN_FAILPOINTS=f"{name}=kill" + (f"@{nth}" if nth else ""))
        assert ran.code == -signal.SIGKILL, (point, ran.err)
        if number % 2:
            box.must("restore", "b.tar.gz")
        box.must("apply", "--auto-approve")
        assert not (home_of(box) / INTENT).exists(), point
        assert box.run("plan", "--detailed-exitcode").code == 0, point
    assert json.loads(box.must("show", "--json").out).keys() == identity.keys()
    box.check_converged()
    box.destroy()
