"""What keeps a host from running apps: each fact alone, against a host on which nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import FalplanError, Severity
from falplan.core.hostfacts import Engine, Facts, FileSystem, GpuProcess, SeenGpu, Smi, Systemd, facts_of
from falplan.core.preflight import Checked, Outcome, is_usable, problems_of
from falplan.core.preflight_gpus import OLDEST_DRIVER
from falplan.core.problems import GIB, Needs, Problem, error, warning
from falplan.engine.preflight import KINDS, OTHER

APPS = ("app.main.one",)
NEEDS = Needs(builds=APPS, pythons={"3.11": APPS}, fal_apps=APPS, other_apps=APPS)
GPUS = replace(NEEDS, gpu_apps=APPS, other_apps=())
DISK = FileSystem("/home/ops/x", "/home/ops", True, False, False, 100 * GIB, 200 * GIB, 10**6, 10**7)
GPU = SeenGpu(0, "GPU-0", "NVIDIA H100 80GB HBM3", 81559 << 20, "550.127.08", "00000000:10:00.0", ecc_errors=0)
SMI = Smi(0, gpus=(GPU, replace(GPU, index=1, uuid="GPU-1")))
BUS = ("0000:10:00.0", "0000:11:00.0")
SYSTEMD = Systemd(first=True, version="252", linger=True, user_units=True)

FINE = Facts(
    hostname="gpu-01",
    os="linux",
    arch="x86_64",
    distribution="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0",
    libc="glibc",
    libc_version="2.36",
    vcpu=64,
    ram=512 * GIB,
    memory_free=500 * GIB,
    uid=1000,
    user="ops",
    python="3.11.7",
    pythons=("3.9.2", "3.11.7"),
    folder=DISK,
    temporary=replace(DISK, path="/tmp", there="/tmp"),
    open_files=(1024, 524288),
    systemd=SYSTEMD,
    docker=Engine("27.0", True),
    podman=None,
    selinux=False,
    cgroup=2,
    pci=BUS,
    smi=SMI,
    packager="apt-get",
)


def with_gpu(**changed: Any) -> Facts:
    return replace(FINE, smi=replace(SMI, gpus=(replace(GPU, **changed), SMI.gpus[1])))


def smi(**changed: Any) -> Facts:
    return replace(FINE, smi=replace(SMI, **changed))


def folder(**changed: Any) -> Facts:
    return replace(FINE, folder=replace(DISK, **changed))


def temporary(**changed: Any) -> Facts:
    return replace(FINE, temporary=replace(FINE.temporary, **changed))


def systemd(**changed: Any) -> Facts:
    return replace(FINE, systemd=replace(SYSTEMD, **changed))


def host(**changed: Any) -> Facts:
    return replace(FINE, **changed)


E, W = Severity.ERROR, Severity.WARNING

TABLE = [
    (host(os="freebsd"), NEEDS, E, "os"),
    (host(arch="ppc64le"), NEEDS, E, "arch"),
    (host(arch="arm64"), NEEDS, W, "arch"),
    (host(libc="musl", libc_version=""), NEEDS, W, "libc"),
    (host(libc="musl", libc_version=""), Needs(other_apps=APPS), W, "libc"),
    (host(libc_version="2.27"), NEEDS, W, "glibc-old"),
    (host(pythons=("3.9.2", "3.12.1")), NEEDS, E, "python-version"),
    (host(pythons=("3.1.1",)), NEEDS, E, "python-version"),
    (host(pythons=("3.9.2", "3.10.12")), Needs(other_apps=APPS, gateway="linux-x86_64"), E, "gateway-python"),
    (FINE, replace(NEEDS, gateway="linux-aarch64"), E, "gateway-platform"),
    (host(ram=GIB - 1), NEEDS, W, "memory"),
    (host(offset=2.1), NEEDS, W, "clock"),
    (host(offset=-60.5), NEEDS, E, "clock"),
    (host(open_files=(256, 4096)), NEEDS, W, "open-files"),
    (folder(read_only=True, writable=False), NEEDS, E, "folder-read-only"),
    (folder(writable=False), NEEDS, E, "folder-permission"),
    (folder(noexec=True), NEEDS, E, "folder-noexec"),
    (folder(noexec=True), Needs(other_apps=APPS), W, "folder-noexec"),
    (folder(free=GIB - 1), NEEDS, E, "disk"),
    (folder(free=10 * GIB - 1), NEEDS, W, "disk"),
    (folder(inodes_free=9_999), NEEDS, E, "inodes"),
    (folder(inodes_free=99_999), NEEDS, W, "inodes"),
    (temporary(noexec=True), NEEDS, W, "tmp-noexec"),
    (temporary(writable=False), NEEDS, W, "tmp-read-only"),
    (host(port="administratively prohibited"), NEEDS, E, "forward-ports"),
    (host(path="the connection was closed"), NEEDS, E, "forward-sockets"),
    (host(path=None), NEEDS, W, "forward-untried"),
    (host(sudo=True, path=None), NEEDS, E, "sudo-fal-apps"),
    (host(direct="10.0.0.11:20417: timed out"), NEEDS, E, "direct-port"),
    (systemd(first=False), NEEDS, W, "systemd"),
    (systemd(linger=False), NEEDS, W, "linger"),
    (systemd(user_units=False, said="Failed to connect to bus"), NEEDS, W, "user-units"),
    (host(docker=Engine("", False, "permission denied")), NEEDS, W, "docker"),
    (host(podman=Engine("", False)), NEEDS, W, "podman"),
    (host(selinux=True), NEEDS, W, "selinux"),
    (host(cgroup=1), NEEDS, W, "cgroups"),
    (host(cgroup=None), NEEDS, W, "cgroups"),
    (host(smi=None), NEEDS, E, "gpu-driver-missing"),
    (smi(code=9, said="NVIDIA-SMI has failed", gpus=()), NEEDS, E, "gpu-driver"),
    (smi(code=4, said="Failed to initialize NVML: Insufficient Permissions", gpus=()), NEEDS, E, "gpu-permission"),
    (smi(code=126, said="sh: nvidia-smi: Permission denied", gpus=()), NEEDS, E, "gpu-permission"),
    (
        smi(gpus=SMI.gpus[:1], odd=("Unable to determine the device handle for GPU1: GPU is lost.",)),
        NEEDS,
        E,
        "gpu-lost",
    ),
    (smi(gpus=SMI.gpus[:1]), NEEDS, W, "gpu-missing"),
    (smi(code=6, gpus=()), NEEDS, W, "gpu-missing"),
    (FINE, replace(NEEDS, reserved_gpus=3), E, "gpu-reserve"),
    (host(smi=None, pci=()), GPUS, W, "gpu-none"),
    (with_gpu(driver="525.60.12"), NEEDS, E, "gpu-driver-old"),
    (with_gpu(driver="470.256.02"), NEEDS, E, "gpu-driver-old"),
    (with_gpu(mig=True), NEEDS, W, "gpu-mig"),
    (smi(gpus=tuple(replace(g, mig=True) for g in SMI.gpus)), NEEDS, E, "gpu-mig"),
    (with_gpu(ecc_errors=1), NEEDS, E, "gpu-ecc"),
    (with_gpu(persistent=False), NEEDS, W, "gpu-persistence"),
    (with_gpu(name="NVIDIA A100-SXM4-80GB"), NEEDS, W, "gpu-kinds"),
    (host(refused=("/dev/nvidia0",)), NEEDS, E, "gpu-permission"),
    (smi(processes=(GpuProcess("GPU-1", 77, "python"),)), NEEDS, W, "gpu-busy"),
]


@pytest.mark.parametrize(
    ("facts", "needs", "severity", "code"), TABLE, ids=[f"{row[3]}-{n}" for n, row in enumerate(TABLE)]
)
def test_each_fact_that_is_wrong_gives_its_own_problem_alone(
    facts: Facts, needs: Needs, severity: Severity, code: str
) -> None:
    found = problems_of(facts, needs)

    assert [(p.severity, p.code) for p in found] == [(severity, code)]
    assert all(p.seen and p.expected and p.fix and "\n" not in p.seen + p.expected + p.fix for p in found)


FINE_TABLE = [
    (FINE, NEEDS),
    (FINE, replace(GPUS, reserved_gpus=2)),
    (host(arch="arm64"), Needs(other_apps=APPS)),
    (host(arch="arm64", pythons=("3.9.2", "3.13.0")), Needs(gateway="linux-aarch64")),
    (host(libc_version="2.28"), NEEDS),
    (host(libc="", libc_version=""), NEEDS),
    (host(ram=GIB), NEEDS),
    (host(offset=2.0), NEEDS),
    (host(offset=-8.0, within=6.5), NEEDS),
    (host(open_files=(-1, -1)), NEEDS),
    (folder(free=10 * GIB), NEEDS),
    (folder(inodes_free=0, inodes=0), NEEDS),
    (folder(inodes_free=100_000), NEEDS),
    (systemd(linger=False, user_units=False), NEEDS),
    (host(sudo=True, path=None), Needs(other_apps=APPS)),
    (host(direct="", port="administratively prohibited", path="the connection was closed"), NEEDS),
    (host(direct="", sudo=True, path=None), NEEDS),
    (host(docker=None), NEEDS),
    (host(smi=None, pci=()), NEEDS),
    (smi(code=6, gpus=()), replace(NEEDS, gpu_apps=())),
    (with_gpu(driver=OLDEST_DRIVER), NEEDS),
    (with_gpu(driver="", ecc_errors=None), NEEDS),
]


@pytest.mark.parametrize(("facts", "needs"), FINE_TABLE)
def test_what_is_just_enough_is_no_problem(facts: Facts, needs: Needs) -> None:
    if facts.systemd.first and not facts.systemd.linger:
        facts = replace(facts, uid=0, user="root")
    if facts.smi is not None and not facts.smi.gpus:
        facts = replace(facts, pci=())

    assert problems_of(facts, needs) == ()


def test_errors_come_first() -> None:
    found = problems_of(host(selinux=True, port="no", arch="ppc64le", cgroup=1), NEEDS)

    assert [p.code for p in found] == ["arch", "forward-ports", "cgroups", "selinux"]


def test_a_driver_that_does_not_answer_leaves_the_rest_unsaid() -> None:
    facts = smi(code=9, said="NVIDIA-SMI has failed", gpus=(), odd=())

    assert [p.code for p in problems_of(facts, replace(NEEDS, reserved_gpus=1))] == ["gpu-driver", "gpu-reserve"]


def checked(*problems: Problem, facts: Facts | None = FINE) -> Checked:
    return Checked("host.dc1.a", "dc1", "a", "a", problems, facts)


def test_a_host_that_nobody_could_look_at_is_never_fine() -> None:
    bad, odd = error("x", "a", "b", "c"), warning("y", "a", "b", "c")

    assert checked().outcome is Outcome.FINE
    assert checked(odd).outcome is Outcome.WARNINGS
    assert checked(odd, bad).outcome is Outcome.ERRORS
    assert checked(bad, facts=None).outcome is Outcome.UNREACHABLE
    assert is_usable([checked(), checked(odd)])
    assert not is_usable([checked(), checked(bad)])
    assert not is_usable([checked(bad, facts=None)])


@pytest.mark.parametrize("body", [{}, {"inventory": 3}, {"inventory": {}, "system": {}, "gpu": {}, "files": [1]}])
def test_what_has_another_form_is_an_error_of_the_host(body: dict[str, Any]) -> None:
    """Seen red with facts that were taken as they came: a bug's traceback for a host that answers nonsense."""
    with pytest.raises(FalplanError, match="another form"):
        facts_of(body)


def test_every_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text()
    codes = {row[3] for row in TABLE} | {kind.code for _, kind in KINDS} | {OTHER.code, "host-key-unknown"}

    assert not [code for code in codes if f"`{code}`" not in page]


@pytest.mark.parametrize(
    ("code", "said", "advice"),
    [
        (4, "Failed to initialize NVML: Insufficient Permissions", "usermod -aG video,render"),
        (18, "Failed to initialize NVML: Driver/library version mismatch", "`sudo reboot`"),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "modprobe nvidia"),
        (255, "Failed to initialize NVML: Unknown Error", "--gpus all"),
        (1, "something new", "dmesg"),
    ],
)
def test_what_nvidia_smi_says_is_answered_with_what_helps(code: int, said: str, advice: str) -> None:
    """Seen red with `dmesg` for everything, also for a user who may not use the devices."""
    [told] = [p for p in problems_of(smi(code=code, said=said, gpus=()), NEEDS) if p.code.startswith("gpu-")]
    assert advice in told.fix
