"""What can keep a machine from running apps: gathered over one connection, for those who judge it. Changes nothing, and judges nothing.

Sent beside `hand.py`, whose verbs it adds to: `time`, `examine`, `listen`, `listen_direct` and `unlisten`.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import fronting, hand, inventory, units
else:  # on a machine its neighbours came with it
    import fronting
    import hand
    import inventory
    import units

PCI = "/sys/bus/pci/devices"
NVIDIA = "0x10de"
DISPLAY = "0x03"  # PCI classes of what computes or draws
SMI_FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "driver_version",
    "pci.bus_id",
    "mig.mode.current",
    "persistence_mode",
    "ecc.errors.uncorrected.volatile.total",
)
SEARCH = 10.0  # seconds for asking interpreters for their versions
SAID = 300  # characters of what a program says that are told
GREETING = b"falplan\n"
IN_MEMORY = ("/dev/shm", "/run")  # noqa: S108 - mkdtemp is private


def examine(folder: str, versions: bool = True) -> dict[str, Any]:
    """All that can be found out without changing anything. `folder` is where falplan's things lie, or will. Sizes in bytes.

    What can't be found out is empty, or None. `versions`: look for other interpreters than this one, too, which takes the longest.
    """
    path = os.path.abspath(os.path.expanduser(folder))
    return {
        "inventory": inventory.detect(folder),
        "user": {"uid": os.getuid(), "name": user_name()},
        "system": system(),
        "pythons": pythons() if versions else [],
        "folder": {"path": path, **file_system(path)},
        "temporary": {"path": temporary(), **file_system(temporary())},
        "memory_free": meminfo().get("MemAvailable"),
        "files": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        "systemd": systemd(),
        "engines": {name: engine(name) for name in ("docker", "podman")},
        "selinux": text_of("/sys/fs/selinux/enforce") == "1",
        "cgroup": cgroup_version(),
        "gpu": gpu_facts(),
    }


def text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def output(argv: list[str]) -> tuple[int, str]:
    """(status, what it said) of a program that only tells something."""
    code, text = inventory.output(argv)
    return code, text.strip()


# -- the system -----------------------------------------------------------------------------------------------------------


def user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def system() -> dict[str, Any]:
    """{distribution, kernel, libc, libc_version}; `libc` is glibc, musl or empty."""
    name = re.search(r'(?m)^PRETTY_NAME="?([^"\n]*)', text_of("/etc/os-release"))
    libc, version = inventory.libc_of()
    return {
        "distribution": name.group(1) if name else "",
        "kernel": platform.release(),
        "libc": libc,
        "libc_version": version,
    }


def pythons() -> list[str]:
    """Versions of the interpreters that a build finds: those on the search path, and those that uv keeps for this user."""
    found = {".".join(map(str, sys.version_info[:3]))}
    give_up = time.monotonic() + SEARCH
    for program in interpreters():
        if time.monotonic() > give_up:
            break
        code, text = output([program, "-I", "-S", "-B", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"])
        if code == 0 and re.fullmatch(r"\d+\.\d+\.\d+", text):
            found.add(text)
    found.update(map(inventory.version_of, inventory.uv_pythons()))
    return sorted(found, key=lambda v: [int(n) for n in v.split(".")])


def interpreters() -> list[str]:
    """Programs on the search path that may be a Python, each once. Scripts come last: a version manager's take long to say no."""
    found: dict[str, str] = {}
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for program in sorted(glob.glob(os.path.join(glob.escape(place), "python3*"))):
            if re.fullmatch(r"python3(\.\d+)?", os.path.basename(program)) and os.access(program, os.X_OK):
                found.setdefault(os.path.realpath(program), program)
    return sorted(found.values(), key=inventory.is_script)


def file_system(path: str) -> dict[str, Any]:
    """{there, writable, read_only, noexec, free, total, inodes_free, inodes}: what holds a folder, or will. No `inodes`: no limit."""
    there = inventory.existing(path)
    found = os.statvfs(there)
    return {
        "there": there,
        "writable": os.access(there, os.W_OK | os.X_OK),
        "read_only": bool(found.f_flag & os.ST_RDONLY),
        "noexec": bool(found.f_flag & getattr(os, "ST_NOEXEC", 0)),
        "free": found.f_bavail * found.f_frsize,
        "total": found.f_blocks * found.f_frsize,
        "inodes_free": found.f_favail,
        "inodes": found.f_files,
    }


def temporary() -> str:
    """Where programs put what they need for a moment. Not `tempfile`'s own answer, which it finds by writing there."""
    return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - only looked at


def meminfo() -> dict[str, int]:
    """Lines of /proc/meminfo, in bytes."""
    lines = (line.split() for line in text_of("/proc/meminfo").splitlines())
    return {w[0].rstrip(":"): int(w[1]) * 1024 for w in lines if len(w) > 1 and w[1].isdigit()}


def systemd() -> dict[str, Any]:
    """{first, version, linger, user_units}: whether it is process 1; whether this user's processes may stay, and units be used."""
    first = text_of("/proc/1/comm") == "systemd"
    version = re.match(r"systemd (\d+)", output(["systemctl", "--version"])[1]) if shutil.which("systemctl") else None
    said = ""
    if first and version:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or units.runtime_of(os.getuid())
        argv = ["env", f"XDG_RUNTIME_DIR={runtime}", "systemctl", "--user", "is-system-running"]
        said = "".join(output(argv)[1].splitlines()[-1:])
    return {
        "first": first,
        "version": version.group(1) if version else "",
        "linger": os.path.exists(f"/var/lib/systemd/linger/{user_name()}"),
        "user_units": said in ("running", "degraded", "starting", "initializing"),
        "said": said[:SAID],
    }


def engine(name: str) -> dict[str, Any] | None:
    """{version, usable, said} of docker or podman; None if it is not installed."""
    program = shutil.which(name)
    if program is None:
        return None
    # `podman version` makes the folders that it stores images in, and a look leaves nothing behind.
    ask = ["version", "--format", "{{.Server.Version}}"] if name == "docker" else ["--version"]
    code, text = output([program, *ask])
    said = text.splitlines()[-1][:SAID] if text else ""
    return {
        "version": said.split()[-1] if code == 0 and said else "",
        "usable": code == 0,
        "said": "" if code == 0 else said,
    }


def cgroup_version() -> int | None:
    """2, 1 (also where both are mounted), or None."""
    if os.path.exists(os.path.join(inventory.CGROUPS, "cgroup.controllers")):
        return 2
    return 1 if os.path.isdir(os.path.join(inventory.CGROUPS, "memory")) else None


# -- GPUs -----------------------------------------------------------------------------------------------------------------


def gpu_facts() -> dict[str, Any]:
    """{pci, smi, refused}: NVIDIA's devices on the PCI bus, what nvidia-smi says, and device files that this user may not use."""
    files = sorted(glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/nvidiactl") + glob.glob("/dev/nvidia-uvm"))
    return {
        "pci": on_bus(),
        "smi": ask_smi(),
        "refused": [name for name in files if not os.access(name, os.R_OK | os.W_OK)],
    }


def on_bus() -> list[str]:
    """Addresses of NVIDIA GPUs that no other driver (as for a virtual machine) has taken."""
    found = []
    for folder in sorted(glob.glob(os.path.join(PCI, "*"))):
        driver = os.path.basename(os.path.realpath(os.path.join(folder, "driver")))
        is_gpu = text_of(f"{folder}/vendor") == NVIDIA and text_of(f"{folder}/class").startswith(DISPLAY)
        if is_gpu and driver not in ("vfio-pci", "pci-stub", "nouveau"):
            found.append(os.path.basename(folder))
    return found


def ask_smi() -> dict[str, Any] | None:
    """{code, said, gpus, odd, processes}; `odd` are lines that describe no GPU. None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    fields = list(SMI_FIELDS)
    code, text = query(program, "gpu", fields)
    while code == 2 and len(fields) > 4:  # an old one, which does not know the last ones
        fields.pop()
        code, text = query(program, "gpu", fields)
    gpus, odd = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        gpu = parse(line, fields)
        if gpu is None:
            odd.append(line[:SAID])
        else:
            gpus.append(gpu)
    return {
        "code": code,
        "said": " ".join(text.split())[:SAID] if code else "",
        "gpus": gpus,
        "odd": odd if code == 0 else [line for line in odd if "lost" in line.lower()],
        "processes": foreign(program) if code == 0 else [],
    }


def query(program: str, what: str, fields: list[str]) -> tuple[int, str]:
    return output([program, f"--query-{what}={','.join(fields)}", "--format=csv,noheader"])


def parse(line: str, fields: list[str]) -> dict[str, Any] | None:
    """One line, by field; None if it describes no GPU that works."""
    parts = [p.strip() for p in line.split(",")]
    gpu = inventory.parse_gpu(",".join(parts[:4]))
    if gpu is None or len(parts) != len(fields) or any("lost" in p.lower() for p in parts):
        return None
    told = dict(zip(fields, parts))
    errors = told.get("ecc.errors.uncorrected.volatile.total", "")
    return {
        "index": gpu["index"],
        "uuid": gpu["uuid"],
        "name": gpu["name"],
        "vram": gpu["vram"],
        "driver": told.get("driver_version", ""),
        "bus": told.get("pci.bus_id", ""),
        "mig": told.get("mig.mode.current", "") == "Enabled",
        "persistent": told.get("persistence_mode", "") != "Disabled",
        "ecc_errors": int(errors) if errors.isdigit() else None,
    }


def foreign(program: str) -> list[dict[str, Any]]:
    """{uuid, pid, name} of each process that computes on a GPU and is no runner's."""
    code, text = query(program, "compute-apps", ["gpu_uuid", "pid", "process_name"])
    found = []
    for line in text.splitlines() if code == 0 else ():
        uuid, pid, name = (*(p.strip() for p in line.split(",", 2)), "", "", "")[:3]
        if uuid.startswith("GPU-") and pid.isdigit() and not inventory.is_ours(int(pid)):
            found.append({"uuid": uuid, "pid": int(pid), "name": name[:SAID]})
    return found


# -- ways in --------------------------------------------------------------------------------------------------------------


class Doors:
    """What listens so that somebody may try to get there: a port, and a unix socket in a private folder that is kept in memory."""

    def __init__(self) -> None:
        self.folder = ""
        self.open: list[socket.socket] = []

    def listen(self) -> dict[str, str]:
        """{tcp, unix}: addresses. Whoever connects is greeted."""
        port = socket.socket()
        port.bind(("127.0.0.1", 0))
        path = socket.socket(socket.AF_UNIX)
        self.folder = tempfile.mkdtemp(prefix="falplan-", dir=place_in_memory())
        path.bind(f"{self.folder}/s")
        self.open = [port, path]
        for door in self.open:
            door.listen(4)
            threading.Thread(target=greet, args=(door,), daemon=True).start()
        return {"tcp": f"tcp:127.0.0.1:{port.getsockname()[1]}", "unix": f"unix:{self.folder}/s"}

    def listen_direct(self, bind: str, ports: list[int]) -> dict[str, Any]:
        """{port, because}: a port as the TLS front of a runner would have it, or 0 and why there can be none."""
        try:
            import ssl  # noqa: F401 - small installations of Python leave it out
        except ImportError as exc:
            return {"port": 0, "because": f"its Python can't speak TLS: {exc}"}
        try:
            door, claimed = fronting.open_door(bind, ports, lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        except OSError as exc:
            return {"port": 0, "because": exc.strerror}
        claimed.close()
        self.open.append(door)
        threading.Thread(target=greet, args=(door,), daemon=True).start()
        return {"port": door.getsockname()[1], "because": ""}

    def close(self) -> None:
        """Leave nothing behind. May be called again."""
        for door in self.open:
            door.close()
        folder, self.folder, self.open = self.folder, "", []
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def place_in_memory() -> str:
    """A folder for what is there for a moment: no disk is written to where there is another one."""
    own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for folder in (own, *IN_MEMORY):
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return temporary()


def greet(door: socket.socket) -> None:
    while True:
        try:
            visitor = door.accept()[0]
        except OSError:
            return  # it was closed
        with visitor:
            try:
                visitor.sendall(GREETING)
            except OSError:
                continue


DOORS = Doors()


def unlisten(own: hand.Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """Nobody comes any more."""
    DOORS.close()
    return None, b""


VERBS = {
    "time": lambda own, header, payload: (time.time(), b""),
    "examine": lambda own, header, payload: (examine(header["folder"]), b""),
    "listen": lambda own, header, payload: (DOORS.listen(), b""),
    "listen_direct": lambda own, header, payload: (DOORS.listen_direct(header["bind"], header["ports"]), b""),
    "unlisten": unlisten,
}


def main() -> None:
    """The hand, with these verbs beside its own."""
    hand.VERBS.update(VERBS)
    hand.ENDINGS.append(DOORS.close)
    hand.main()


def tell() -> None:
    """Print what `examine` finds out quickly, of the folder that is named, where there is a hand already."""
    print(json.dumps(examine(sys.argv[1], versions=False)))
