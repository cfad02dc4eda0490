"""A host of a lab whose process 1 is a real systemd, in a container of its own: units, users' managers, and restarts that are systemd's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.faults.sandbox import Missing
from tests.lab.namespaces import Lab, LabHost, wait
from tests.lab.networks import NETWORKS, run

CGROUPS = Path("/sys/fs/cgroup")
SSHD = """\
[Unit]
After=lab-cgroups.service
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -f /etc/ssh/lab_config
KillMode=process
"""
# nspawn lays another boot id over the kernel's, which units with a /proc of their own would not see: all there see the kernel's.
GROUPS = """\
[Unit]
DefaultDependencies=no
Before=basic.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'umount /proc/sys/kernel/random/boot_id; for c in memory cpu cpuacct pids devices; do mount -o remount,rw,bind /sys/fs/cgroup/$c 2>/dev/null; done; true'
"""
QUIET = (
    "getty.target",
    "console-getty.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-journal-flush.service",
    "systemd-ask-password-wall.path",
    "systemd-machine-id-commit.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-random-seed.service",
)
"""Units that have nothing to do on such a host."""


def check_systemd() -> None:
    """Raise `Missing` by the name of what this machine lacks."""
    if shutil.which("systemd-nspawn") is None:
        raise Missing("systemd-container")
    if not Path("/lib/systemd/systemd").exists():
        raise Missing("systemd")


class SystemdHost(LabHost):
    """Made by `add_systemd`."""

    def prepare(self) -> None:
        """What its disk has beside this machine's: nothing that this machine has set up for itself is started there."""
        base = self.disk / "etc/systemd/system"
        for path in (base, *(self.disk / f"etc/rc{n}.d" for n in "S0123456")):
            path.mkdir(parents=True, exist_ok=True)
            os.setxattr(path, "trusted.overlay.opaque", b"y")
        for unit, text in (("lab-sshd.service", SSHD), ("lab-cgroups.service", GROUPS)):
            (base / unit).write_text(text)
            wants = base / "multi-user.target.wants"
            wants.mkdir(exist_ok=True)
            (wants / unit).symlink_to(f"../{unit}")
        for unit in QUIET:
            (base / unit).symlink_to("/dev/null")
        (self.disk / "etc/hostname").write_text(f"{self.name}\n")
        (self.disk / "etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")

    def boot(self) -> None:
        """Switch it on, and wait until its sshd listens."""
        root = self.folder / "root"
        if not os.path.ismount(root):
            layers = f"lowerdir=/,upperdir={self.disk},workdir={self.folder}/work"
            run("mount", "-t", "overlay", "-o", layers, "overlay", str(root))
        argv = [
            "systemd-nspawn",
            "-q",
            "--register=no",
            "--keep-unit",
            "--settings=no",
            "-D",
            str(root),
            "-M",
            self.network,
        ]
        argv += ["--boot", "--console=pipe", f"--network-namespace-path={NETWORKS / self.network}", "--resolv-conf=off"]
        argv += ["--timezone=off", "--link-journal=no", "systemd.show_status=no", "systemd.unit=multi-user.target"]
        script = (
            f'for g in {" ".join(map(str, self._groups()))}; do mkdir -p $g; echo $$ >$g/cgroup.procs; done; exec "$@"'
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setsid", "-w", "sh", "-c", script, "sh", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.join()
        wait(self.listens, self._has_ended, lambda: f"{self.name} does not boot: {self.log}")
        self.run("systemctl daemon-reexec")  # it finds that it may use its control groups by now

    def _groups(self) -> list[Path]:
        """Control groups of its own: nspawn takes the one that it is in for the host's."""
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS / self.network]
        wanted = ("systemd", "unified", "memory", "cpu", "cpuacct", "pids", "devices")
        return [CGROUPS / name / self.network for name in wanted if (CGROUPS / name).is_dir()]

    def _pids(self) -> set[int]:
        found: set[int] = set()
        for group in self._groups():
            for procs in group.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found |= {int(line) for line in procs.read_text().split()}
        return found

    def power_off(self) -> None:
        """As when its plug is pulled: nobody is told. Its disk is kept, and what was in memory is gone."""
        self.cut()
        self._kill()

    def _kill(self) -> None:
        def gone() -> bool:
            for pid in self._pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self._pids()

        wait(gone, lambda: False, lambda: f"{self.name} can't be switched off")
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """In good order: what runs there is told, and it boots again."""
        assert self.process is not None
        subprocess.run(
            [
                "nsenter",
                f"--net={NETWORKS / self.network}",
                "ssh",
                *self._way(),
                "root@" + self.address,
                "systemctl reboot",
            ],
            check=False,
            capture_output=True,
        )
        self.process.wait(60)  # nspawn ends where a machine would start again
        self._kill()
        self.boot()

    def _way(self) -> list[str]:
        quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return [*quiet, "-i", str(self.lab.key)]

    def run(self, line: str, user: str = "root") -> str:
        """What a shell line prints there."""
        argv = ["nsenter", f"--net={NETWORKS / self.network}", "ssh", *self._way(), f"{user}@{self.address}", line]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def add_lingering_user(self, name: str) -> None:
        """A user with a home, who may log in as root does, and whose manager runs without a login."""
        home = f"/home/{name}"
        self.run(f"useradd -m -d {home} -s /bin/sh -p '*' {name} && mkdir -m 700 {home}/.ssh")
        self.run(f"cp /etc/ssh/lab_authorized {home}/.ssh/authorized_keys && chown -R {name}: {home}/.ssh")
        self.run(f"loginctl enable-linger {name}")
        wait(
            lambda: self.run(f"systemctl is-active user@$(id -u {name}) || true").strip() == "active",
            self._has_ended,
            lambda: f"{name} has no manager: {self.log}",
        )

    def remove(self) -> None:
        """Switch it off and throw it away. May be called again."""
        if self.process is not None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.power_off()
        run("umount", "-l", str(self.folder / "root"), check=False)
        for group in self._groups():
            for folder in sorted(group.rglob("*/"), key=lambda p: len(p.parts), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()
        super().remove()


def add_systemd(lab: Lab, name: str) -> SystemdHost:
    """A host with systemd that is up."""
    check_systemd()
    host = SystemdHost(lab, name, len(lab.hosts) + 2)
    lab.hosts.append(host)
    host.prepare()
    host.make()
    return host
