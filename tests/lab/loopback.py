"""Hosts on loopback addresses: an sshd each, with its own host keys, home and port. They share this machine's files and processes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from falplan.sdk.ssh import Credentials, Target

CONFIG = """\
{more}
ListenAddress {address}:{port}
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized_keys {folder}/home/.ssh/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxSessions 10
LogLevel VERBOSE
Subsystem sftp internal-sftp
{keys}
SetEnv HOME={folder}/home SHLVL=2 FALPLAN_MACHINE_DIR={folder}/ledger PATH={path} {passed}
"""

PASSED = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"),
)
"""What a machine may need to reach a package index, wherever it is, or a test's own containers; the hosts are this one."""


def make_key(path: Path, kind: str = "ed25519") -> str:
    """Write a private key, and return its public one as a line."""
    key = _new_key(kind)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.with_name(f"{path.name}.pub").write_text(line + "\n")
    return line


def _new_key(kind: str) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()


def fingerprint_of(line: str) -> str:
    """What ssh-keygen prints of a public key."""
    seal = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(seal).decode().rstrip("=")


def sshds_below(pid: int) -> list[int]:
    """Pids of the sshds that hold a connection each: children of the one that listens, and theirs."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        with suppress(OSError):
            for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
                if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):  # newer ones: sshd-session
                    found.append(child)
                    todo.append(child)
    return found


@dataclass
class LoopbackHost:
    """One sshd. `keys` are the fingerprints of its host keys, by kind."""

    folder: Path
    address: str
    port: int
    client_key: Path
    keys: dict[str, str] = field(default_factory=dict)
    more: str = ""
    path: str = os.environ["PATH"]
    process: subprocess.Popen[bytes] | None = None

    def make(self, kinds: Sequence[str] = ("ed25519",)) -> LoopbackHost:
        """Make its folder and keys."""
        (self.folder / "home").mkdir(parents=True)
        shutil.copy(f"{self.client_key}.pub", self.folder / "authorized_keys")
        for kind in kinds:
            self.renew(kind)
        return self

    def renew(self, kind: str) -> None:
        """Another host key of this kind. It is used from the next start on."""
        old = self.folder / f"host_{kind}"
        if old.exists():
            old.rename(self.folder / f"host_{kind}.old")
        self.keys[kind] = fingerprint_of(make_key(self.folder / f"host_{kind}", kind))

    def restore(self, kind: str) -> None:
        """The host key that was there before it was renewed."""
        path = self.folder / f"host_{kind}"
        (self.folder / f"host_{kind}.old").rename(path)
        key = load_ssh_private_key(path.read_bytes(), None).public_key()
        self.keys[kind] = fingerprint_of(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())

    def start(self) -> LoopbackHost:
        """Start sshd, and wait until it listens."""
        keys = "\n".join(f"HostKey {self.folder}/host_{kind}" for kind in self.keys)
        file = self.folder / "sshd_config"
        file.write_text(
            CONFIG.format(
                address=self.address,
                port=self.port,
                folder=self.folder,
                keys=keys,
                more=self.more,
                path=self.path,
                passed=" ".join(f"{n}={os.environ[n]}" for n in PASSED if n in os.environ),
            )
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([program, "-D", "-e", "-f", str(file)], stderr=log, stdout=log)
        give_up = time.monotonic() + 10
        while not self.listens():
            assert time.monotonic() < give_up and self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.01)
        return self

    def listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def stop(self) -> None:
        """End sshd; connections that are open live on, as with the real one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self) -> None:
        """End sshd, and every process that a connection left."""
        self.stop()
        for pid in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut_all(self) -> None:
        """The same where sshd was stopped already: what serves its connections is found by what it runs."""
        self.cut()
        for pid in self.sessions():
            with suppress(OSError):
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                if Path(f"/proc/{parent}/comm").read_text().strip() == "sshd":
                    os.kill(int(parent), signal.SIGKILL)

    def cut(self) -> None:
        """End every connection at once, as if the network did. What runs there goes on."""
        for pid in self.connections():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def connections(self) -> list[int]:
        """Pids of the sshds that hold a connection each."""
        return sshds_below(self.process.pid) if self.process is not None else []

    def freeze(self) -> None:
        """sshd and what serves connections stop answering, as on a host that hangs. What runs there goes on."""
        for pid in self._sshds():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """They go on."""
        for pid in self._sshds():
            with contextlib.suppress(ProcessLookupError):  # one that ended a connection
                os.kill(pid, signal.SIGCONT)

    def _sshds(self) -> list[int]:
        return [*([self.process.pid] if self.process else []), *self.connections()]

    def sessions(self) -> list[int]:
        """Pids of the processes that run on this host: what serves its connections, and what was started through them."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"={self.folder}/".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found

    def target(self, **more: object) -> Target:
        """How to reach it, its keys trusted."""
        values: dict[str, object] = {
            "address": self.address,
            "port": self.port,
            "user": "root",
            "trusted": tuple(self.keys.values()),
            "identity_files": (str(self.client_key),),
        }
        return Target(self.folder.name, **{**values, **more})  # type: ignore[arg-type]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


CREDENTIALS = Credentials(config="", agent=False)
"""Nothing of the person who runs the tests."""


def environment(host: LoopbackHost) -> Mapping[str, str]:
    """What a command on the host finds in its environment."""
    return {"HOME": str(host.folder / "home"), "FALPLAN_MACHINE_DIR": str(host.folder / "ledger")}
