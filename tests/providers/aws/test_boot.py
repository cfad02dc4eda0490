"""What a machine does when it boots: small, without a secret, and an end of its own once nobody looks after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from falplan.core.notices import Notice, notice_of
from falplan.sdk.testing import fakeec2
from falplan.sdk.testing.fakeec2.metadata import Metadata, metadata_at
from falplan.sdk.testing.fakeec2.things import Instance
from falplan_providers.aws.boot import FOLDER, cloud_config
from falplan_providers.aws.noticing import PACE, script

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6WrYfCd1m kim@laptop"
MOST = 16_384
"""Bytes of user data that EC2 takes."""


def config(after: float = 1800.0) -> Any:
    text = cloud_config(KEY, after)
    assert text.startswith("#cloud-config\n") and len(text) < MOST
    return yaml.safe_load(text)


def test_it_lets_the_control_plane_in_and_says_nothing_of_who_made_its_key() -> None:
    [_, user] = config()["users"]

    assert (user["name"], user["lock_passwd"]) == ("falplan", True)
    assert user["ssh_authorized_keys"] == [" ".join(KEY.split()[:2])]


def test_what_ec2_says_of_taking_it_back_is_written_down(tmp_path: Path) -> None:
    """By the script that a machine runs, asked of metadata that want a token; nothing is written before there is a notice."""
    account = fakeec2.Account()
    [kind] = account.catalog.types[:1]
    instance = Instance("i-1", account.now, kind=kind, zone=account.catalog.zones[0], spot=True)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    notice = tmp_path / "notice"
    env = {**os.environ, "FALPLAN_METADATA": f"http://127.0.0.1:{listening.getsockname()[1]}"}
    with metadata_at(listening, Metadata(instance)) as asked:
        program = script(str(notice)).replace(f"sleep({PACE})", "sleep(0.05)")
        running = subprocess.Popen([sys.executable, "-c", program], env=env)
        try:
            until(lambda: asked.count("/latest/meta-data/spot/instance-action") > 1)
            assert not notice.exists()
            instance.noticed_at = 1_800_000_000.0
            until(notice.exists)
        finally:
            running.kill()
            running.wait()
    assert notice_of(notice.read_bytes(), 0.0) == Notice(1_800_000_120.0)
    assert asked.count("/latest/api/token") > 0


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def deadman(tmp_path: Path, *, heard: float | None, up: float = 10_000.0, after: float = 1800.0) -> bool:
    """Whether the script would power off; `heard` so many seconds ago, None never, on a machine that has been up for so long."""
    [script] = [f["content"] for f in config(after)["write_files"] if f["path"].endswith("deadman")]
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "systemctl").write_text(f"#!/bin/sh\necho $1 > {tmp_path}/done\n")
    (bin_ / "systemctl").chmod(0o755)
    (tmp_path / "uptime").write_text(f"{up:.2f} 1.00\n")
    if heard is not None:
        (tmp_path / "heard").touch()
        then = time.time() - heard
        os.utime(tmp_path / "heard", (then, then))
    text = script.replace(FOLDER, str(tmp_path)).replace("/proc/uptime", str(tmp_path / "uptime"))
    subprocess.run(["sh", "-c", text], check=True, env={"PATH": f"{bin_}:/usr/bin:/bin"})
    return (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("heard", "up", "ends"),
    [
        (10.0, 10_000.0, False),
        (1700.0, 10_000.0, False),
        (1900.0, 10_000.0, True),
        (None, 10_000.0, True),
        (None, 60.0, False),
        (9_000.0, 60.0, False),
    ],
    ids=["heard", "almost", "silent", "never heard", "just booted", "booted again"],
)
def test_it_ends_once_nobody_was_heard_for_long(tmp_path: Path, heard: float | None, up: float, ends: bool) -> None:
    assert deadman(tmp_path, heard=heard, up=up) is ends


def test_the_timer_looks_every_minute_and_belongs_to_the_system() -> None:
    files = {f["path"]: f["content"] for f in config()["write_files"]}
    timer = files["/etc/systemd/system/falplan-deadman.timer"]

    assert "OnUnitActiveSec=60" in timer and "WantedBy=timers.target" in timer
    assert ["systemctl", "enable", "--now", "falplan-deadman.timer"] in config()["runcmd"]
