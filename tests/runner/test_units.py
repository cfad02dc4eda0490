"""What stands in a unit of systemd, and which devices it may open."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from falplan.runner import units

FOLDER = "/var/lib/falplan/0123/runners/runner-1"
WANTED: dict[str, Any] = {
    "manager": units.SYSTEM,
    "app": "acme/web",
    "vcpu": 0.5,
    "memory": 512_000_000,
    "gpus": [],
    "grace": 5,
    "run_as": "",
    "writable": [],
}


def lines(**changed: Any) -> list[str]:
    return units.compose(FOLDER, {**WANTED, **changed}, "/var/lib/falplan/0123/tools/1/supervisor.py").splitlines()


def test_a_unit_has_a_user_limits_and_no_rights() -> None:
    text = lines()

    assert "DynamicUser=yes" in text
    assert f"User={units.user_of(FOLDER, 'acme/web')}" in text
    assert "NoNewPrivileges=yes" in text
    assert "CPUQuota=50%" in text
    assert f"MemoryMax={512_000_000 + units.HEADROOM}" in text
    assert "TemporaryFileSystem=/var/lib/falplan/0123:ro" in text
    assert f"BindPaths={FOLDER}" in text
    assert "WantedBy=multi-user.target" in text
    assert not [line for line in text if line.startswith("DeviceAllow")]


def test_runners_of_an_app_share_a_user_and_those_of_others_do_not() -> None:
    other = FOLDER.replace("runner-1", "runner-2")

    assert units.user_of(FOLDER, "acme/web") == units.user_of(other, "acme/web")
    assert units.user_of(FOLDER, "acme/web") != units.user_of(FOLDER, "acme/other")
    assert units.name_of(FOLDER) != units.name_of(other)
    assert len(units.user_of(FOLDER, "a" * 300)) < 31, "a user's name is short"


def test_a_user_who_is_named_sees_what_he_sees_elsewhere() -> None:
    text = lines(run_as="root", writable=["/data/models"])

    assert "User=root" in text
    assert "DynamicUser=yes" not in text
    assert "ProtectHome=tmpfs" not in text
    assert "ReadWritePaths=/data/models" in text


def test_a_users_own_manager_gets_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    text = lines(manager=units.USER)

    assert "NoNewPrivileges=yes" in text
    assert "WantedBy=default.target" in text
    assert not [line for line in text if line.startswith(("User=", "DynamicUser", "Protect", "Device"))]


def test_what_systemd_would_read_as_its_own_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", '/opt/a b:/opt/50%:/opt/"q":/opt/$x')

    assert r'Environment="PATH=/opt/a b:/opt/50%%:/opt/\"q\":/opt/$x"' in lines()
    with pytest.raises(ValueError, match="can't stand in a unit"):
        lines(writable=["/data/two words"])
    with pytest.raises(ValueError, match="can't stand in a unit"):
        lines(app="a\nExecStart=/bin/evil")


def test_gpus_are_opened_by_their_minor_number(tmp_path: Path) -> None:
    for place, minor in (("0000:01:00.0", 1), ("0000:02:00.0", 0)):
        (tmp_path / "proc" / place).mkdir(parents=True)
        (tmp_path / "proc" / place / "information").write_text(f"Model: \t NVIDIA H100\nDevice Minor: \t {minor}\n")
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    found = units.devices_of((0,), str(tmp_path / "dev"), str(tmp_path / "proc"))

    assert [Path(path).name for path in found] == ["nvidia1", "nvidiactl", "nvidia-uvm"]
    assert units.devices_of((), str(tmp_path / "dev"), str(tmp_path / "proc")) == []


@pytest.mark.parametrize("manager", [units.SYSTEM, units.USER])
def test_systemd_itself_understands_every_line(manager: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, which is not installed")
    path = tmp_path / units.name_of(FOLDER)
    path.write_text("\n".join(lines(manager=manager, writable=["/data/models"])))
    scope = "--user" if manager == units.USER else "--system"
    done = subprocess.run(["systemd-analyze", scope, "verify", str(path)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if path.name in line]

    assert not [line for line in complaints if "is not executable" not in line], done.stderr
