"""What a machine has: processors, memory, disk, GPUs. Reads, never changes; what can't be found out is noted.

Used by falplan on its own machine, and by `hand.py` on others. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner.processes import boot_id
else:  # on a machine its neighbours came with it
    from processes import boot_id

CGROUPS = "/sys/fs/cgroup"
FIELDS = "index,uuid,name,memory.total"
MARKER = b"FALPLAN_RUNNER="


def detect(folder: str = "~") -> dict[str, Any]:
    """{vcpu, ram, disk, gpus, os, arch, python, hostname, boot_id, notes} as this process may use it: its affinity mask and control
    group count. RAM and the disk's free room where `folder` is, or will be, in bytes; `gpus` as `{index, uuid, name, vram, busy}`."""
    gpus, notes = detect_gpus()
    machine = platform.machine().lower()
    return {
        "vcpu": _vcpu(),
        "ram": _ram(),
        "disk": shutil.disk_usage(existing(os.path.expanduser(folder))).free,
        "gpus": gpus,
        "os": platform.system().lower(),
        "arch": {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine),
        "python": ".".join(map(str, sys.version_info[:3])),
        "hostname": socket.gethostname().split(".")[0],
        "boot_id": boot_id(),
        "notes": notes,
    }


def existing(folder: str) -> str:
    """The folder itself, or the nearest one above it that is there."""
    while not os.path.isdir(folder) and folder not in ("", "/"):
        folder = os.path.dirname(folder)
    return folder or "/"


def machine_identity() -> str:
    """A name for this machine that stays the same over restarts."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = _read(path)
        if text:
            return text
    return socket.gethostname()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


# -- processors and memory ------------------------------------------------------------------------------------------------


def _own_groups() -> dict[str, str]:
    """Control group controllers -> this process's path; the key of version 2 is empty."""
    groups = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _limits(controller: str, name: str) -> list[str]:
    """The contents of a limit file in this process's group and all groups above it, innermost first."""
    groups = _own_groups()
    known = bool(controller) and controller in groups
    base = os.path.join(CGROUPS, controller) if known else CGROUPS
    path = groups.get(controller if known else "", "/").strip("/")
    parts = path.split("/") if path else []
    folders = [os.path.join(base, *parts[:n]) for n in range(len(parts), -1, -1)]
    return [text for text in (_read(os.path.join(f, name)) for f in folders) if text]


def _vcpu() -> float:
    try:
        count = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        count = float(os.cpu_count() or 1)
    for text in _limits("", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            count = min(count, int(quota) / int(period))
    for quota, period in zip(_limits("cpu", "cpu.cfs_quota_us"), _limits("cpu", "cpu.cfs_period_us")):
        if int(quota) > 0:
            count = min(count, int(quota) / int(period))
    return count


def _ram() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = int(output(["sysctl", "-n", "hw.memsize"])[1].strip() or 0)
    for text in [*_limits("", "memory.max"), *_limits("memory", "memory.limit_in_bytes")]:
        if text.isdigit():
            total = min(total, int(text))
    return total


# -- GPUs -----------------------------------------------------------------------------------------------------------------


def detect_gpus() -> tuple[list[dict[str, Any]], list[str]]:
    """(NVIDIA GPUs sorted by index, notes for people), as nvidia-smi tells. No driver or no device gives no GPUs and a note.

    Never guesses: what can't be read is left out and noted. A GPU on which a process computes that no runner started is `busy`.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], []
    code, text = output([program, f"--query-gpu={FIELDS}", "--format=csv,noheader"])
    if code == 6:
        return [], []
    if code != 0:
        return [], [f"nvidia-smi failed ({code}): {' '.join(text.split())[:200]}"]
    gpus, notes = [], []
    busy, unknown = _busy(program)
    if unknown:
        notes.append(f"which GPUs are busy is not known, so none is offered: {unknown}")
    for line in filter(None, map(str.strip, text.splitlines())):
        gpu = parse_gpu(line, busy)
        if gpu is None:
            notes.append(f"a GPU is left out, nvidia-smi said: {line[:200]}")
        else:
            gpus.append({**gpu, "busy": True} if unknown else gpu)
    return sorted(gpus, key=lambda g: int(g["index"])), notes


def parse_gpu(line: str, busy: Iterable[str] = ()) -> dict[str, Any] | None:
    """One line of `index, uuid, name, memory.total`; None if it has no such form, as for a lost GPU."""
    parts = [p.strip() for p in line.split(",")]
    if len(parts) != 4 or not parts[0].isdigit() or not parts[1].startswith("GPU-"):
        return None
    size, _, unit = parts[3].partition(" ")
    # GPUs that share the machine's memory print [N/A]: 0 means not known.
    vram = int(size) * 1024**2 if size.isdigit() and unit in ("MiB", "") else 0
    return {"index": int(parts[0]), "uuid": parts[1], "name": parts[2], "vram": vram, "busy": parts[1] in set(busy)}


def _busy(program: str) -> tuple[set[str], str]:
    """UUIDs of GPUs on which a process computes that no runner started; and why that can't be found out, if so."""
    code, text = output([program, "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"])
    if code != 0:
        return set(), f"nvidia-smi failed ({code}): {' '.join(text.split())[:200]}"
    busy = set()
    for line in text.splitlines():
        uuid, _, pid = (p.strip() for p in line.partition(","))
        if uuid.startswith("GPU-") and pid.isdigit() and not is_ours(int(pid)):
            busy.add(uuid)
    return busy, ""


def is_ours(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(v.startswith(MARKER) for v in file.read().split(b"\0"))
    except OSError:
        return False


def output(argv: list[str]) -> tuple[int, str]:
    """(status, what it said) of a program that only tells something."""
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, errors="replace", timeout=20, env=env)
    except subprocess.TimeoutExpired:
        return 124, "it did not answer within 20 s"
    except OSError as exc:
        return 126, str(exc)
    return done.returncode, done.stdout + done.stderr
