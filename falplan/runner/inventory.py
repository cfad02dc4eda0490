"""What a machine has: processors, memory, disk, GPUs. Reads, never changes; what can't be found out is noted.

Used by falplan on its own machine, and by `hand.py` on others. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import socket
import subprocess
import sys

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import containers
    from falplan.runner.processes import boot_id
else:  # on a machine its neighbours came with it
    import containers
    from processes import boot_id

CGROUPS = "/sys/fs/cgroup"
FIELDS = "index,uuid,name,memory.total"
DIVIDED = "mig.mode.current"
PACKAGERS = ("apt-get", "dnf", "yum", "zypper", "apk", "pacman")
MARKER = b"FALPLAN_RUNNER="


def detect(folder: str = "~") -> dict[str, Any]:
    """{vcpu, ram, disk, gpus, os, arch, libc, libc_version, python, pythons, shims, packager, engines, hostname, boot_id, place, notes}.

    As this process may use it: its affinity mask and control group count. RAM and the disk's free room where `folder` is, or will be, in
    bytes; `gpus` as `{index, uuid, name, vram, busy, mig}`; `pythons` and `shims` as of `interpreters`; `engines` are those of containers
    that this user may use.
    """
    gpus, notes = detect_gpus()
    machine = platform.machine().lower()
    libc, libc_version = libc_of()
    pythons, shims = interpreters()
    return {
        "vcpu": _vcpu(),
        "ram": _ram(),
        "disk": shutil.disk_usage(existing(os.path.expanduser(folder))).free,
        "gpus": gpus,
        "os": platform.system().lower(),
        "arch": {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine),
        "libc": libc,
        "libc_version": libc_version,
        "python": ".".join(map(str, sys.version_info[:3])),
        "pythons": pythons,
        "shims": shims,
        "packager": next(filter(shutil.which, PACKAGERS), ""),
        "engines": containers.usable(),
        "hostname": socket.gethostname().split(".")[0],
        "boot_id": boot_id(),
        "place": place_of(existing(os.path.expanduser(folder))),
        "notes": notes,
    }


def place_of(folder: str) -> str:
    """Two machines that say the same of their folders, in the same boot, are one."""
    found = os.stat(folder)
    return f"{found.st_dev}:{found.st_ino}"


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


# -- what environments are made with ----------------------------------------------------------------------------------------


def libc_of() -> tuple[str, str]:
    """The C library of this Python, which is the system's: (glibc, musl or empty; its version)."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):
        name, version = "", ""
    if name == "glibc":
        return name, version
    return ("musl", "") if glob.glob("/lib/ld-musl-*") else ("", "")


def interpreters() -> tuple[list[str], list[str]]:
    """(versions of interpreters that a build finds, as 3.11; those of which there is only a script). By their names: none is run.

    They are those on the search path and those that uv keeps for this user. A script is a version manager's, and may find one or not.
    """
    found = {"%d.%d" % sys.version_info[:2]}
    shims: set[str] = set()
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for program in glob.glob(os.path.join(glob.escape(place), "python3*")):
            version = _version_in(program)
            if version and os.access(program, os.X_OK):
                (shims if is_script(program) else found).add(version)
    for folder in uv_pythons():
        if os.path.exists(os.path.join(folder, "bin", "python3")):
            found.add(".".join(version_of(folder).split(".")[:2]))
    return sorted(found, key=_numbers), sorted(shims - found, key=_numbers)


def _version_in(program: str) -> str:
    """What the name of a program on the path says, or that of what it leads to: `python3` is python3.11 in most places."""
    for name in (os.path.basename(program), os.path.basename(os.path.realpath(program))):
        match = re.fullmatch(r"python(3\.\d+)", name)
        if match:
            return match.group(1)
    return ""


def uv_pythons() -> list[str]:
    """Folders of the interpreters that uv keeps for this user."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    place = os.environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv", "python")
    return [f for f in glob.glob(os.path.join(glob.escape(place), "cpython-*")) if version_of(f)]


def version_of(folder: str) -> str:
    """`3.12.4` of `cpython-3.12.4-linux-x86_64-gnu`."""
    match = re.match(r"cpython-(\d+\.\d+\.\d+)-", os.path.basename(folder))
    return match.group(1) if match else ""


def is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


def _numbers(version: str) -> list[int]:
    return [int(n) for n in version.split(".")]


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

    Never guesses: what can't be read is left out and noted. A GPU on which a process computes that no runner started is `busy`, one that
    is divided (MIG) is `mig`.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], []
    code, text = output([program, f"--query-gpu={FIELDS},{DIVIDED}", "--format=csv,noheader"])
    if code == 2:  # an old one, which divides none
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
    """One line of `index, uuid, name, memory.total`, and perhaps `mig.mode.current`; None if it has no such form, as for a lost GPU."""
    parts = [p.strip() for p in line.split(",")]
    if len(parts) not in (4, 5) or not parts[0].isdigit() or not parts[1].startswith("GPU-"):
        return None
    size, _, unit = parts[3].partition(" ")
    # GPUs that share the machine's memory print [N/A]: 0 means not known.
    vram = int(size) * 1024**2 if size.isdigit() and unit in ("MiB", "") else 0
    mig = parts[4:] == ["Enabled"]  # [N/A] where it can't be
    known = {"index": int(parts[0]), "uuid": parts[1], "name": parts[2], "vram": vram}
    return {**known, "busy": parts[1] in set(busy), "mig": mig}


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
