"""Process 1 of a host in a lab: puts its file systems together, takes its name, and becomes sshd. `boot.py FOLDER NAME BOOT_ID`.

Started in namespaces of its own (network, mounts, processes, hostname). Needs the standard library alone.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path


def main(folder: str, name: str, boot_id: str) -> None:
    root = Path(folder) / "root"
    layers = f"lowerdir=/,upperdir={folder}/disk,workdir={folder}/work"
    mount("-t", "overlay", "-o", layers, "overlay", root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    mount("--rbind", "/dev", root / "dev")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
    (root / "run/sshd").mkdir(mode=0o755)
    # One kernel serves all hosts, and would say that it was booted once.
    (root / "run/boot_id").write_text(f"{boot_id}\n")
    mount("--bind", root / "run/boot_id", root / "proc/sys/kernel/random/boot_id")
    socket.sethostname(name)
    os.chroot(root)
    os.chdir("/")
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") or "/usr/sbin/sshd"
    os.execv(sshd, [sshd, "-D", "-e", "-f", "/etc/ssh/lab_config"])


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
