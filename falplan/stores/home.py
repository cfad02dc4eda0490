"""The control plane's folder on its machine: what lies where, and whether a control plane is alive in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from falplan import clock
from falplan.core.errors import Locked
from falplan.core.values import JsonObject
from falplan.stores.files import write_whole


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running control plane listens. `pid` is for people; being alive is told by the lock alone."""

    url: str
    pid: int
    version: str


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
        """Chosen once and kept: the port."""
        return self.folder / "gateway.json"

    def make(self) -> None:
        """Make the folder, private from the first moment on. May be called again."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)

    def is_alive(self) -> bool:
        """Whether a control plane holds this folder's lock. Never true for one that was killed."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
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
    def owned(self) -> Iterator[None]:
        """Hold the folder for the life of a control plane: one control plane a lineage and machine.

        Raises:
            Locked: another one holds it.
        """
        self.make()
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                at = self.endpoint()
                raise Locked(
                    "A control plane of this project runs already",
                    f"It listens on {at.url} (pid {at.pid})." if at else f"It holds {self.folder / 'lock'}.",
                ) from None
            yield
            (self.folder / "endpoint.json").unlink(missing_ok=True)
        finally:
            os.close(descriptor)

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

    def remove(self) -> None:
        """Delete everything. The control plane must be gone. May be called again."""
        aside = self.folder.with_name(f".{self.folder.name}.{clock.new_id('gone')}")
        try:
            self.folder.rename(aside)  # in one step, so that nobody finds half of it
        except FileNotFoundError:
            return
        _make_writable(aside)
        shutil.rmtree(aside)


def _make_writable(folder: Path) -> None:
    # Bundles are kept read-only; their folders must be writable to be removed.
    for path, folders, _ in os.walk(folder):
        for name in folders:
            child = Path(path, name)
            if not child.is_symlink():
                child.chmod(0o700)


def home_of(lineage: str, environ: Mapping[str, str]) -> ControlHome:
    """The folder of a lineage's control plane on this machine, for this user."""
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return ControlHome(Path(base) / "falplan" / lineage)


def read_json(path: Path) -> JsonObject | None:
    """A small JSON file that falplan wrote whole; None if there is none or it is foreign."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return cast("JsonObject", body) if isinstance(body, dict) else None
