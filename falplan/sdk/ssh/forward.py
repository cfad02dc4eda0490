"""Ways to what listens on another machine: unix sockets here, forwarded by one OpenSSH client for each machine.

OpenSSH, not paramiko: its cryptography runs in a process of its own, beside the event loop that carries requests.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh.connect import DEFAULT_KEYS, PATIENCE
from falplan.sdk.ssh.target import Credentials, Target

PREFIX = "falplan-ssh-"
"""What names of folders with forwarded sockets begin with. Behind it stands the pid of the process whose they are, and `-`."""

ALIAS = "falplan-host"
"""The name under which the host's key stands in a known_hosts file of our own."""

CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr"
"""OpenSSH's own list, those first that processors have instructions for: half of the time that a forwarded byte costs goes into them."""

OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "IdentitiesOnly=yes",
    "PasswordAuthentication=no",
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "TCPKeepAlive=yes",
    "StreamLocalBindUnlink=yes",
    "StreamLocalBindMask=0177",
    "ControlMaster=yes",
    "ControlPersist=no",
    "Compression=no",
    f"Ciphers={CIPHERS}",
    "IPQoS=none",
    f"HostKeyAlias={ALIAS}",
)


HANDING_OVER = 10.0
"""Seconds within which those who connect learn of another way."""

LINGERING = 3600.0
"""Seconds after that which what is under way may last."""

STAY = "/bin/sh -c 'while echo; do sleep 15; done & cat >/dev/null; kill 0'"
"""What is run there: it ends with its standard input. It says something now and then, as a machine that only listens never learns that
whoever connected was cut off; `kill 0` ends all that this command started, and nothing else."""


@dataclass(slots=True)
class Forwards:
    """Forwarded sockets of one machine. `target` leaves nothing open; `host_key` is `ssh-ed25519 AAAA…`, the key that was trusted.

    The client ends with this process, however that ends: it runs a command there that waits for its standard input.
    """

    target: Target
    credentials: Credentials
    host_key: str
    _folder: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _sockets: dict[str, Path] = field(default_factory=dict)
    _number: int = 0
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def local(self, address: str, host_key: str) -> str:
        """Where to connect here for `unix:/path` or `tcp:HOST:PORT` there. What was forwarded before stays where it was.

        `host_key` is the key that the host shows now, and that is trusted.

        Raises:
            Unreachable: the machine can't be reached.
        """
        with self._mutex:
            if host_key != self.host_key:
                self.host_key = host_key
                self._end()
            if self._process is None or self._process.poll() is not None:
                self._begin()
            if address not in self._sockets:
                self._number += 1  # never the name of another one, whose callers may still connect to it
                self._add(address, self._place() / f"{self._number}")
            return f"unix:{self._sockets[address]}"

    def port(self, address: str, host_key: str) -> int:
        """A port of this machine's loopback that leads to `HOST:PORT` there, for as long as the client lives.

        Raises:
            Unreachable: the machine can't be reached, or no port can be had.
        """
        self.local(f"tcp:{address}", host_key)  # the client runs, and its server lets us through
        said = ""
        for _ in range(5):  # somebody else may take a port between our look and the client's
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = int(free.getsockname()[1])
            with self._mutex:
                said = self._control("forward", ["-L", f"127.0.0.1:{port}:{_there(f'tcp:{address}')}"])
            if not said:
                return port
        raise Unreachable("A way can't be opened", f"{self.target.where}: {said}")

    def forget(self, address: str) -> None:
        """Forward it no longer. What was never forwarded is no error."""
        with self._mutex:
            path = self._sockets.pop(address, None)
            if path is not None:
                self._control("cancel", ["-L", f"{path}:{_there(address)}"])
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """End it, and take its folder away. May be called again."""
        with self._mutex:
            self._end()
            folder, self._folder, self._sockets = self._folder, None, {}
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def retire(self) -> None:
        """Another one takes this one's place: what goes through it comes to its end, in the background. Returns at once."""
        with self._mutex:
            process, self._process = self._process, None
            folder, self._folder, self._sockets = self._folder, None, {}
        if process is not None and folder is not None:
            threading.Thread(target=_outlive, args=(process, folder), daemon=True).start()

    def _place(self) -> Path:
        """A private folder with a path that is short enough for sockets."""
        if self._folder is None:
            runtime = os.environ.get("XDG_RUNTIME_DIR", "")
            base = runtime if runtime and len(runtime) < 40 and os.access(runtime, os.W_OK) else "/tmp"  # noqa: S108 - mkdtemp is private
            _sweep(Path(base))
            self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
        return self._folder

    def _begin(self) -> None:
        """Start the client, and everything that was forwarded with it."""
        self._end()
        folder = self._place()
        (folder / "known_hosts").write_text(f"{ALIAS} {self.host_key}\n")
        program = shutil.which("ssh")
        if program is None:
            detail = "Runners on other machines are reached through OpenSSH's client: `apt-get install openssh-client` where the "
            raise FalplanError("ssh is missing", f"{detail}control plane runs.")
        # Its remote command ends with our end of the pipe, even where this process is killed.
        argv = [
            program,
            *self._arguments(folder),
            "-S",
            str(folder / "control"),
            self.target.address,
            STAY,
        ]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
            )
        self._wait(folder)
        fp("ssh.forward.after_begin")
        for address, path in self._sockets.items():
            self._add(address, path)

    def _wait(self, folder: Path) -> None:
        assert self._process is not None  # noqa: S101 - it was just started
        give_up = time.monotonic() + PATIENCE
        while not (folder / "control").exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                said = (folder / "log").read_text(errors="replace").strip()[-300:]
                self._end()
                raise Unreachable("The host can't be reached", f"{self.target.where}: {said or 'no answer'}")
            time.sleep(0.01)

    def _arguments(self, folder: Path) -> list[str]:
        target = self.target
        options = [*OPTIONS, f"UserKnownHostsFile={folder / 'known_hosts'}", "GlobalKnownHostsFile=/dev/null"]
        keys = [self.credentials.key_file] if self.credentials.key_file else [*target.identity_files]
        if not keys:
            keys = [str(Path(k).expanduser()) for k in DEFAULT_KEYS if Path(k).expanduser().is_file()]
        options += [f"IdentityFile={key}" for key in keys]
        if target.via is not None:
            options.append(f"ProxyCommand={shlex.join(self._jump(target.via))} -W %h:%p")
        elif target.command:
            options.append(f"ProxyCommand={target.command}")
        named = [part for option in options for part in ("-o", option)]
        return ["-F", "none", *named, "-T", "-p", str(target.port), "-l", target.user]

    def _jump(self, via: Target) -> list[str]:
        """A client that goes to a machine in between, whose key ~/.ssh/known_hosts has, or is trusted by name."""
        keys = [self.credentials.key_file] if self.credentials.key_file else []
        argv = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ServerAliveInterval=5"]
        argv += [part for key in (*keys, *via.identity_files) for part in ("-i", key)]
        if via.via is not None:
            argv += ["-o", f"ProxyCommand={shlex.join(self._jump(via.via))} -W %h:%p"]
        return [*argv, "-p", str(via.port), "-l", via.user, via.address]

    def _add(self, address: str, path: Path) -> None:
        path.unlink(missing_ok=True)
        said = self._control("forward", ["-L", f"{path}:{_there(address)}"])
        if said:
            raise Unreachable("A way to a runner can't be opened", f"{self.target.where}: {said}")
        self._sockets[address] = path

    def _control(self, verb: str, more: list[str]) -> str:
        """Ask the running client; what it says if it refuses."""
        folder = self._place()
        argv = [shutil.which("ssh") or "ssh", "-F", "none", "-S", str(folder / "control"), "-O", verb, *more, ALIAS]
        try:
            done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return "its client does not answer"
        return "" if done.returncode == 0 else done.stderr.strip()[-300:] or f"status {done.returncode}"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        if self._folder is not None:
            (self._folder / "control").unlink(missing_ok=True)


def _outlive(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Keep a client until its successor is known to those who connect, and then for as long as something goes through it."""

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)  # this process may end sooner
    try:
        for seconds in (HANDING_OVER, LINGERING):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # its command ends, and it does so with the last connection that is forwarded
    finally:
        end()
        atexit.unregister(end)


def _sweep(base: Path) -> None:
    """Remove folders of processes of this user that were killed."""
    for folder in base.glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and folder.lstat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _there(address: str) -> str:
    """What ssh calls an address there: brackets of an IPv6 address stay."""
    return address.partition(":")[2]
