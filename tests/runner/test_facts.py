"""What is found out about a machine, from its programs and files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from falplan.core.hostfacts import facts_of
from falplan.runner import facts, inventory
from tests.lab import smi


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on the path."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_what_this_machine_says_is_understood(tools: Path) -> None:
    smi.install(tools, smi.gpus((smi.H100, 2), ecc=4), processes=[(1, os.getpid(), "python")])
    found = facts_of(facts.examine("~", versions=False), offset=0.5)

    assert found.vcpu > 0 and found.folder.total > 0 and found.offset == 0.5
    assert found.smi is not None
    assert [(g.index, g.ecc_errors, g.driver) for g in found.smi.gpus] == [(0, 4, "550.127.08"), (1, 4, "550.127.08")]
    assert [(p.pid, p.uuid) for p in found.smi.processes] == [(os.getpid(), found.smi.gpus[1].uuid)]


def test_an_old_nvidia_smi_is_asked_for_what_it_knows(tools: Path) -> None:
    """Seen red with one query: every GPU of an old driver was told as broken."""
    program = smi.install(tools, smi.gpus((smi.A100, 1), driver="418.87"))
    old = (
        program.read_text()
        .replace('"persistence_mode": "Enabled"', '"persistence": "Enabled"')
        .replace('"ecc.', '"old.')
    )
    program.write_text(old)
    told = facts.ask_smi()

    assert told is not None and told["code"] == 0 and not told["odd"]
    assert told["gpus"][0]["driver"] == "418.87" and told["gpus"][0]["ecc_errors"] is None


def test_a_lost_gpu_is_told_beside_those_that_answer(tools: Path) -> None:
    gpus = smi.gpus((smi.H100, 3))
    gpus[1]["lost"] = True
    smi.install(tools, gpus)
    told = facts.ask_smi()

    assert told is not None and [g["index"] for g in told["gpus"]] == [0, 2]
    assert len(told["odd"]) == 1 and "GPU is lost" in told["odd"][0]


@pytest.mark.parametrize("line", ["[GPU is lost]", "0, GPU-1, NVIDIA H100, 81559 MiB, [GPU is lost], [GPU is lost]"])
def test_a_line_of_a_lost_gpu_is_no_gpu(line: str) -> None:
    assert facts.parse(line, list(facts.SMI_FIELDS[:6])) is None


def test_each_interpreter_is_asked_once(tools: Path) -> None:
    for name in ("python3", "python3.11", "python3-config", "python3.x"):
        (tools / name).symlink_to(Path(sys.executable).resolve())
    slow = tools / "python3.9"
    slow.write_text("#!/bin/sh\necho no\n")
    slow.chmod(0o755)
    programs = facts.interpreters()

    assert sum(os.path.realpath(p) == str(Path(sys.executable).resolve()) for p in programs) == 1
    assert programs[-1] == str(slow)
    assert ".".join(map(str, sys.version_info[:3])) in facts.pythons()


def test_interpreters_are_known_by_their_names_and_none_is_run(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with a version manager's script taken for an interpreter."""
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    real, own = Path(sys.executable).resolve(), f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("python3", "python3.33", "python3.34-config", "python3.x"):
        (tools / name).symlink_to(real)
    for name in ("python3.6", "python3.33.sh", "python3.35"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tools / name).chmod(0o755)
    (tools / "python3.36").write_bytes(b"\x7fELF")  # not to be run
    kept = tmp_path / "uv" / "cpython-3.37.2-linux-x86_64-gnu" / "bin"
    kept.mkdir(parents=True)
    (kept / "python3").symlink_to(real)

    assert inventory.interpreters() == (sorted([own, "3.33", "3.37"], key=lambda v: int(v[2:])), ["3.6", "3.35"])
    assert not (tmp_path / "ran").exists()
    assert "3.37.2" in facts.pythons()


@pytest.mark.needs("podman")
def test_podman_makes_no_folders_for_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with `podman version`, which makes those that images are stored in."""
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/images"\nrunroot = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    found = facts.engine("podman")

    assert found is not None and found["usable"] and found["version"][0].isdigit() and found["said"] == ""
    assert [p.name for p in tmp_path.iterdir()] == ["storage.conf"]


def test_doors_leave_nothing_behind() -> None:
    doors = facts.Doors()
    addresses = doors.listen()
    path = Path(addresses["unix"].removeprefix("unix:"))
    assert path.is_socket() and path.parent.stat().st_mode & 0o777 == 0o700
    doors.close()
    doors.close()

    assert not path.parent.exists()
