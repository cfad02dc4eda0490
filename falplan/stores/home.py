"""The control plane's folder on its machine: what lies where, and whether a control plane is alive in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from falplan import clock
from falplan.core.errors import FalplanError, Locked
from falplan.core.values import JsonObject
from falplan.stores.exchange import INTENT, finish_exchange
from falplan.stores.files import write_whole


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running control plane listens. `pid` is for people; being alive is told by the lock alone."""

    url: str
    pid: int
    version: str


LOOPBACK = "127.0.0.1"

ASIDE = "before-restore-"
"""What names of folders begin with that hold the data which a restored backup replaced."""

PASSING = frozenset({"lock", "endpoint.json", "machine", "cache", INTENT})
"""Entries of a control plane's folder that are of one process or can be made again. Whatever else is there is durable."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How the control plane of a folder listens. Port 0: one is chosen, and kept. `cert` and `key` are absolute paths of PEM files."""

    port: int = 0
    listen: str = LOOPBACK
    hostname: str = ""
    cert: str = ""
    key: str = ""

    @property
    def everywhere(self) -> bool:
        """Whether it listens on every address of the machine."""
        return self.listen in ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on

    def url(self, host: str, port: int) -> str:
        """What callers are told: `hostname` if there is one, then the address, then the machine's own name."""
        name = self.hostname or (host if self.everywhere else self.listen)
        return f"https://{f'[{name}]' if ':' in name else name}:{port}"

    def local_url(self, port: int) -> str:
        """Where processes of this machine reach it, whatever names lead here from elsewhere."""
        address = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.listen, self.listen)  # noqa: S104 - compared, not listened on
        return f"https://{f'[{address}]' if ':' in address else address}:{port}"


@dataclass(slots=True)
class Ownership:
    """The lock that a control plane holds on its folder. `passed_on`: another one holds it as well, and goes on."""

    descriptor: int
    passed_on: bool = False

    def pass_on(self) -> None:
        """Leave it to the other one alone: should that die, whoever comes next finds the folder free."""
        self.passed_on = True
        self.let_go()

    def let_go(self) -> None:
        """Hold it no more. May be called again."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class ControlHome:
    """`$XDG_STATE_HOME/falplan/<lineage>/`: everything that a control plane keeps, private to its user (0700)."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "control.db"

    @property
    def tls(self) -> Path:
        return self.folder / "tls"

    @property
    def ca_bundle(self) -> Path:
        return self.tls / "ca-bundle.pem"

    @property
    def trust(self) -> Path:
        """The CA, or the public ones, that vouch for the gateway's certificate."""
        return self.tls / "trust.pem"

    @property
    def machine(self) -> Path:
        """Runners, environments and bundles of the machine at hand."""
        return self.folder / "machine"

    @property
    def bundles(self) -> Path:
        """Uploaded archives by digest."""
        return self.folder / "bundles"

    @property
    def locks(self) -> Path:
        """Locked requirements by digest."""
        return self.folder / "locks"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    @property
    def settings(self) -> Path:
        """How it listens; a port that was chosen is kept."""
        return self.folder / "gateway.json"

    @property
    def secrets_key(self) -> Path:
        """What secrets are encrypted by in the database. Lost with it, they are delivered again by the next apply."""
        return self.folder / "secrets.key"

    @property
    def access_key(self) -> Path:
        """The private key that the control plane logs in to hosts with. Its public one lies beside it, as `.pub`."""
        return self.folder / "access_key"

    def durable(self) -> list[Path]:
        """What a backup holds: every entry that a control plane could not make again, sorted by name."""
        return [p for p in self.replaceable() if not p.name.startswith(f"{self.database.name}") or p == self.database]

    def replaceable(self) -> list[Path]:
        """What a restored backup replaces: the durable entries, and what belongs to the database that they replace."""
        passing = (".", ASIDE, self.log.name)
        found = sorted(self.folder.iterdir()) if self.folder.exists() else []
        return [p for p in found if p.name not in PASSING and not p.name.startswith(passing)]

    def make(self) -> None:
        """Make the folder, private from the first moment on. May be called again."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)

    def is_alive(self) -> bool:
        """Whether a control plane holds this folder's lock. Never true for one that was killed."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDONLY | os.O_CLOEXEC)  # the disk may be read-only by now
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)

    @contextmanager
    def owned(self, inherited: int | None = None) -> Iterator[Ownership]:
        """Hold the folder for the life of a control plane: one control plane a lineage and machine.

        `inherited` is the lock's descriptor, which the control plane before this one held and passed on.

        Raises:
            Locked: another one holds it.
        """
        self.make()
        descriptor = inherited
        if descriptor is None:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        ownership = Ownership(descriptor)
        try:
            if not _lock(descriptor):
                at = self.endpoint()
                raise Locked(
                    "A control plane of this project runs already",
                    f"It listens on {at.url} (pid {at.pid})." if at else f"It holds {self.folder / 'lock'}.",
                )
            finish_exchange(self.folder)  # a restore that was killed: half of each is no one's data
            yield ownership
            if not ownership.passed_on:
                (self.folder / "endpoint.json").unlink(missing_ok=True)
        finally:
            ownership.let_go()

    def is_still_there(self, ownership: Ownership) -> bool:
        """Whether the folder is the one whose lock is held: it may have been deleted, or another one put in its place."""
        try:
            found = (self.folder / "lock").stat()
        except OSError:
            return False
        held = os.fstat(ownership.descriptor)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def gateway_settings(self) -> GatewaySettings:
        """What was chosen for this folder; defaults where nothing was."""
        body = read_json(self.settings) or {}
        known = {f.name: body[f.name] for f in fields(GatewaySettings) if f.name in body}
        return GatewaySettings(**known)  # type: ignore[arg-type]  # falplan wrote the file, whole

    def keep_gateway_settings(self, settings: GatewaySettings) -> None:
        """Choose how the control plane listens from its next start on."""
        if settings != self.gateway_settings() or not self.settings.exists():
            write_whole(self.settings, json.dumps(asdict(settings)).encode(), mode=0o600, point="port")

    def endpoint(self) -> Endpoint | None:
        """What the newest control plane here wrote; it may be dead."""
        body = read_json(self.folder / "endpoint.json")
        try:
            return Endpoint(str(body["url"]), int(cast("int", body["pid"])), str(body["version"])) if body else None
        except (KeyError, TypeError, ValueError):
            return None

    def announce(self, endpoint: Endpoint) -> None:
        """Tell command lines where to find the control plane."""
        body = {"url": endpoint.url, "pid": endpoint.pid, "version": endpoint.version}
        write_whole(self.folder / "endpoint.json", json.dumps(body).encode(), mode=0o600, point="endpoint")

    def key(self, name: str) -> str | None:
        """A key kept for this user: `admin` or `api`. None if there is none."""
        try:
            return (self.folder / f"{name}.key").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def keep_key(self, name: str, value: str) -> None:
        """Keep a key for this user, readable by nobody else."""
        write_whole(self.folder / f"{name}.key", (value + "\n").encode(), mode=0o600, point="key")

    def remove_remains(self) -> None:
        """Delete what ending runners brought back into a folder that was deleted before. One that anybody uses has a lock, and stays."""
        if (self.folder / "lock").exists() or not self.machine.exists():
            return
        _make_writable(self.machine)
        shutil.rmtree(self.machine, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # nobody else put anything there

    def remove(self) -> None:
        """Delete everything. The control plane must be gone. May be called again."""
        aside = self.folder.with_name(f".{self.folder.name}.{clock.new_id('gone')}")
        try:
            self.folder.rename(aside)  # in one step, so that nobody finds half of it
        except FileNotFoundError:
            return
        _make_writable(aside)
        shutil.rmtree(aside)


def _lock(descriptor: int, patience: float = 0.5) -> bool:
    """Take the lock; whoever only looks whether it is held has it for an instant, which is waited out."""
    give_up = clock.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if clock.monotonic() > give_up:
                return False
        time.sleep(0.01)


def _make_writable(folder: Path) -> None:
    # Bundles are kept read-only; their folders must be writable to be removed.
    for path, folders, _ in os.walk(folder):
        for name in folders:
            child = Path(path, name)
            if not child.is_symlink():
                child.chmod(0o700)


def home_of(lineage: str, environ: Mapping[str, str]) -> ControlHome:
    """The folder of a lineage's control plane on this machine, for this user."""
    return ControlHome(user_folder(environ, "XDG_STATE_HOME", ".local/state") / "falplan" / lineage)


def user_folder(environ: Mapping[str, str], variable: str, below: str) -> Path:
    """The folder that a variable of XDG names, or the one in this user's home.

    Raises:
        FalplanError: there is neither.
    """
    given = environ.get(variable)
    if given:
        return Path(given)
    try:
        return Path(environ.get("HOME") or "~").expanduser() / below
    except RuntimeError as exc:  # no entry in /etc/passwd, as in some containers
        detail = f"HOME is not set, and user {os.getuid()} is not known here. Set {variable} to a folder that is yours alone."
        raise FalplanError("There is no home folder", detail) from exc


def read_json(path: Path) -> JsonObject | None:
    """A small JSON file that falplan wrote whole; None if there is none or it is foreign."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return cast("JsonObject", body) if isinstance(body, dict) else None
