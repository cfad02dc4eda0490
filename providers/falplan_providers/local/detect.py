"""What this machine has: processors, memory, disk. Reads, never changes; what can't be found out is noted."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path

from falplan.sdk.values import Inventory

from .gpus import detect_gpus

_CGROUPS = Path("/sys/fs/cgroup")


def detect() -> Inventory:
    """The machine's inventory as this process may use it: its affinity mask and control group count."""
    gpus, notes = detect_gpus()
    return Inventory(
        vcpu=_vcpu(),
        ram=_ram(),
        disk=shutil.disk_usage(_home()).free,
        gpus=gpus,
        os=platform.system().lower(),
        arch={"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower()),
        python=platform.python_version(),
        hostname=socket.gethostname().split(".")[0],
        boot_id=_boot_id(),
        notes=notes,
    )


def _home() -> Path:
    """This user's home; the root of the disk for one who has none."""
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry in /etc/passwd
        return Path("/")
    return home if home.exists() else Path("/")


def machine_identity() -> str:
    """A name for this machine that stays the same over restarts."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = _read(Path(path))
        if text:
            return text
    return socket.gethostname()


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _boot_id() -> str:
    return _read(Path("/proc/sys/kernel/random/boot_id")) or _sysctl("kern.bootsessionuuid")


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(
            ["sysctl", "-n", name], check=False, capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _own_groups() -> dict[str, str]:
    """Control group controllers -> this process's path; the key of version 2 is empty."""
    groups = {}
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _limits(controller: str, name: str) -> list[str]:
    """The contents of a limit file in this process's group and all groups above it, innermost first."""
    groups = _own_groups()
    base = _CGROUPS / controller if controller and controller in groups else _CGROUPS
    path = groups.get(controller if controller in groups else "", "/").strip("/")
    folders = [base / path, *(base / path).parents] if path else [base]
    return [text for f in folders if f.is_relative_to(base) and (text := _read(f / name))]


def _vcpu() -> float:
    try:
        count = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        count = float(os.cpu_count() or 1)
    for text in _limits("", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            count = min(count, int(quota) / int(period))
    for quota, period in zip(_limits("cpu", "cpu.cfs_quota_us"), _limits("cpu", "cpu.cfs_period_us"), strict=False):
        if int(quota) > 0:
            count = min(count, int(quota) / int(period))
    return count


def _ram() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = int(_sysctl("hw.memsize") or 0)
    for text in [*_limits("", "memory.max"), *_limits("memory", "memory.limit_in_bytes")]:
        if text.isdigit():
            total = min(total, int(text))
    return total
