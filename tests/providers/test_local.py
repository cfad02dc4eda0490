"""What the local provider finds on this machine, and how options change it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from falplan import registry
from falplan.core.errors import FalplanError
from falplan.runner.inventory import detect_gpus, parse_gpu
from falplan_providers.local import provider
from tests.lab import smi

H100 = "0, GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f, NVIDIA H100 80GB HBM3, 81559 MiB"
A = "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"
B = "GPU-6c89852c-d268-c3f3-1b07-005d5ae1dc3f"


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, apps: str = "", code: int = 0) -> None:
    """An nvidia-smi on PATH that answers with these lines."""
    program = folder / "nvidia-smi"
    script = f"""#!{sys.executable}
import sys
print({apps!r} if "compute-apps" in sys.argv[1] else {gpus!r})
sys.exit({code})
"""
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_gpus_come_with_index_name_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, f"1, {B}, NVIDIA H100 80GB HBM3, 81559 MiB\n{H100}")
    gpus, notes = detect_gpus()

    assert [(g["index"], g["uuid"], g["vram"] >> 20, g["busy"]) for g in gpus] == [
        (0, A, 81559, False),
        (1, B, 81559, False),
    ]
    assert notes == []


def test_a_gpu_with_a_foreign_process_is_busy_and_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"{H100}\n1, {B}, NVIDIA H100 80GB HBM3, 81559 MiB"
    ours = {**os.environ, "FALPLAN_RUNNER": "r1"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=ours) as runner:
        fake_smi(tmp_path, monkeypatch, lines, apps=f"{A}, {os.getpid()}\n{B}, {runner.pid}")
        [slots] = registry.slots_of({"here": {"provider": "local"}})
        runner.kill()

    assert slots.gpus == (1,) and slots.total_gpus == 2


def test_gpus_whose_processes_are_not_known_are_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a provider that took a failed look at processes for none: two processes on one GPU."""
    fake_smi(tmp_path, monkeypatch, H100)
    program = tmp_path / "nvidia-smi"
    failing = "sys.exit(9 if 'compute-apps' in sys.argv[1] else 0)"
    program.write_text(program.read_text().replace("sys.exit(0)", failing))
    gpus, notes = detect_gpus()
    [slots] = registry.slots_of({"here": {"provider": "local"}})

    assert [g["busy"] for g in gpus] == [True]
    assert notes == ["which GPUs are busy is not known, so none is offered: nvidia-smi failed (9): "]
    assert (slots.gpus, slots.total_gpus) == ((), 1)


def test_a_reserved_gpu_is_none_of_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, f"{H100}\n1, {B}, NVIDIA H100 80GB HBM3, 81559 MiB")
    [slots] = registry.slots_of({"here": {"provider": "local", "reserve": {"gpus": 1}}})

    assert (slots.gpus, slots.total_gpus) == ((0,), 1)


def test_gpus_in_mig_mode_are_no_room_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with GPUs that counted as whole."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gpus = smi.gpus((smi.A100, 2), (smi.H100, 2))
    gpus[0]["mig"] = gpus[1]["mig"] = True
    smi.install(tmp_path, gpus)
    [slots] = registry.slots_of({"here": {"provider": "local"}})
    assert (slots.gpus, slots.total_gpus, slots.gpu_name) == ((2, 3), 2, "NVIDIA H100 80GB HBM3")
    assert slots.withheld == ("GPUs 0, 1 are in MIG mode",)

    [slots] = registry.slots_of({"here": {"provider": "local", "reserve": {"gpus": 3}}})
    assert (slots.gpus, slots.withheld) == ((), ("GPU 0 is in MIG mode",))


def test_an_nvidia_smi_that_knows_no_mig_has_whole_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with one query: a machine with an old driver had no GPU."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = smi.install(tmp_path, smi.gpus((smi.A100, 1)))
    program.write_text(program.read_text().replace('"mig.mode.current"', '"mig"'))

    assert [(g["index"], g["mig"]) for g in detect_gpus()[0]] == [(0, False)] and detect_gpus()[1] == []


def test_a_capacity_of_nothing_is_nothing() -> None:
    [slots] = registry.slots_of({"here": {"provider": "local", "capacity": {"vcpu": 0, "ram": 0}}})

    assert (slots.total_vcpu, slots.total_ram) == (0, 0)


def test_a_broken_driver_is_a_note_and_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a provider that said nothing of it; and with one that took its message for a GPU's line."""
    fake_smi(
        tmp_path, monkeypatch, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", code=9
    )
    gpus, notes = detect_gpus()

    assert gpus == []
    assert notes == [
        "nvidia-smi failed (9): NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    ]


def test_no_devices_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a provider that took status 6, no devices, for a failure: a note."""
    fake_smi(tmp_path, monkeypatch, "No devices were found", code=6)

    assert detect_gpus() == ([], [])


@pytest.mark.parametrize(
    "line", ["", "Unable to determine the device handle", "x, GPU-1, A, 1 MiB", "0, MIG-1, A, 1 MiB"]
)
def test_a_line_of_another_form_is_no_gpu(line: str) -> None:
    assert parse_gpu(line) is None


def test_shared_memory_is_not_known() -> None:
    gpu = parse_gpu("0, GPU-1, NVIDIA GB10, [N/A]")

    assert gpu and gpu["vram"] == 0


def test_reserve_capacity_and_strict_change_the_room() -> None:
    options: dict[str, Any] = {
        "reserve": {"vcpu": 0.5, "ram": "1 GiB"},
        "capacity": {"vcpu": 16, "ram": "64GiB"},
        "strict": True,
    }
    [slots] = registry.slots_of({"here": {"provider": "local", **options}})

    assert (slots.total_vcpu, slots.total_ram, slots.strict) == (15.5, 63 * 2**30, True)
    assert (slots.free_vcpu, slots.free_ram) == (15.5, 63 * 2**30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reserv": {}}, 'Did you mean "reserve"'),
        ({"reserve": {"cpu": 1}}, 'Did you mean "reserve.vcpu"'),
        ({"reserve": {"ram": "much"}}, "bytes"),
        ({"reserve": {"vcpu": -1}}, "not negative"),
        ({"reserve": {"vcpu": True}}, "not negative"),
        ({"reserve": {"gpus": -1}}, "number of GPUs"),
        ({"reserve": 3}, "a mapping"),
        ({"strict": "yes"}, "true or false"),
    ],
)
def test_an_option_without_meaning_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FalplanError, match=message):
        provider("here", options)


def test_an_unknown_provider_is_told_with_the_nearest_name() -> None:
    with pytest.raises(FalplanError, match='Did you mean "local"'):
        registry.provider_of("locl", "here", {})
    assert "local" in registry.available()
