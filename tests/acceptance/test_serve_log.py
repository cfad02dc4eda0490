"""The log of a real control plane: rotated by itself, and no reason to stop when its disk is full."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from falplan.control.logfile import LARGEST
from tests.faults.sandbox import Sandbox

pytestmark = pytest.mark.faults


def home_of(box: Sandbox) -> Path:
    [folder] = (box.folder / "state" / "falplan").iterdir()
    return folder


def test_a_log_that_has_grown_is_put_aside_and_last_words_go_to_the_new_one(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    log = home_of(box) / "serve.log"
    os.truncate(log, LARGEST)  # sparse
    box.must("apply", "--auto-approve")
    [serving] = box.processes("serve")

    assert log.with_name("serve.log.1").stat().st_size >= LARGEST
    assert "serves https://" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert Path(f"/proc/{serving.pid}/fd/2").resolve() == log
    box.destroy()


def test_a_log_on_a_full_disk_does_not_take_the_control_plane_down(box: Sandbox) -> None:
    """`/dev/full` is a disk without room."""
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    log = home_of(box) / "serve.log"
    log.unlink()
    log.symlink_to("/dev/full")
    box.must("apply", "--auto-approve")
    box.must("call", "one", '{"n": 1}')
    box.check_processes()

    log.unlink()
    box.destroy()
