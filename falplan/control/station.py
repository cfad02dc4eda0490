"""One machine as the control plane works on it: blocking, through its shell. Chooses nothing, and knows no other machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from uv import find_uv_bin

from falplan.control import environments, launch
from falplan.control.bundle_store import BundleStore
from falplan.control.bundles import ensure_bundle, remove_bundles_except
from falplan.control.host import Needed, Observation, Unused
from falplan.control.images import Image, ensure_image, remove_images_except
from falplan.control.labels import Labels
from falplan.control.ledger import Fence, check_fence, read_ledger
from falplan.control.lock_store import LockStore
from falplan.control.locks import Lock
from falplan.control.logs import RunnerLogs
from falplan.control.unused import Leftovers
from falplan.control.uvs import interpreter_of
from falplan.control.wheels import ensure_uv, ensure_wheels
from falplan.core.definition import Definition
from falplan.core.errors import FalplanError
from falplan.core.placement import Reserved
from falplan.core.secret import SecretValue
from falplan.core.spec.resolved import AppKind
from falplan.core.values import Json, JsonObject
from falplan.sdk.here import own_platform
from falplan.sdk.shell import Shell
from falplan.sdk.values import Direct, Units
from falplan.stores.home import ControlHome
from falplan.stores.runner_identity import RunnerIdentity
from falplan.stores.runtime.control import RunnerRow

STOP_WAIT = 1.0  # seconds of one wait for a runner's end
FINDING = 60.0  # seconds for looking for an interpreter
Say = Callable[[str], None]
Reveal = Callable[[Mapping[str, str]], Mapping[str, SecretValue]]
Identify = Callable[[str], RunnerIdentity]


def _nobody(runner_id: str) -> RunnerIdentity:
    raise FalplanError("A runner has no key", f"{runner_id}: no key was given to derive it from.")


@runtime_checkable
class Forwarding(Protocol):
    """A shell that keeps a way open for each address that it was asked to reach."""

    def forget(self, address: str) -> None:
        """Nobody will connect there any more."""
        ...

    def retire(self) -> None:
        """Another one takes this one's place; what goes through its ways comes to its end."""
        ...


@dataclass(slots=True)
class Station:
    """A machine. Everything of ours lies below `root` there; what is put there comes from the control plane's folder, `home`.

    With a `fence` all that is done to runners is checked against the machine's ledger, and what they take is recorded there. `elsewhere`:
    it is not the control plane's own machine, and has neither its programs nor its files.
    """

    home: ControlHome
    shell: Shell
    root: str
    bundles: BundleStore
    reveal: Reveal = lambda versions: {}  #: the values of secrets, by name, for a revision's versions
    identify: Identify = _nobody  #: certificate, key and token of a runner, by its id
    fence: Fence | None = None
    project: str = ""
    elsewhere: bool = False
    platform: str = field(default_factory=own_platform)  #: what packages there are made for
    search_path: str = ""  #: PATH of a runner there
    pushes: bool = False  #: it reaches no package index: wheels are brought there
    systemd: str = ""  #: whose systemd keeps runners there: `system` or `user`; empty if none does
    units: Units = field(default_factory=Units)
    direct: Direct | None = None  #: how runners there are reached without SSH, if they are
    as_root: bool = False  #: by sudo: what listens on a unix socket there is not reached by the user who logs in
    keeping: threading.Lock = field(default_factory=threading.Lock)
    logs: RunnerLogs = field(init=False)
    _reached: dict[str, str] = field(default_factory=dict)  #: runner -> its address there

    def __post_init__(self) -> None:
        self.logs = RunnerLogs(self.shell, self.root)

    @property
    def locks(self) -> LockStore:
        return LockStore(self.home)

    @property
    def leftovers(self) -> Leftovers:
        return Leftovers(self.home, self.shell, self.root, elsewhere=self.elsewhere, fence=self.fence)

    # -- runners ----------------------------------------------------------------------------------------------------------

    def observe(self, machine_id: str) -> list[Observation]:
        """Every runner that lies there."""
        seen = launch.observe_runners(self.shell, self.root)
        gone = self._reached.keys() - {o.runner_id for o in seen if o.alive}
        for runner_id in gone:
            self._forget_way(self._reached.pop(runner_id))
        return [self._observation(o, machine_id) for o in seen]

    def _observation(self, seen: launch.ObservedRunner, machine_id: str) -> Observation:
        lives = seen.alive or bool(seen.survivors)
        starting = seen.alive and seen.state in ("STARTING", "SETUP")
        told = (seen.reason, lives, seen.labels, machine_id, starting, seen.waits, seen.spoiled)
        observed = Observation(seen.runner_id, seen.alive, seen.ready, seen.address, *told)
        if not seen.alive or not seen.address:
            return observed
        if self.direct is not None and seen.front_port:
            identity = self.identify(seen.runner_id)
            if identity.fingerprint == seen.front_fingerprint:  # another one is of a key that was lost
                address = f"tls:{self.direct.address}:{seen.front_port}"
                return replace(observed, address=address, access=identity.access)
        return replace(observed, address=self._reach(seen))

    def _reach(self, seen: launch.ObservedRunner) -> str:
        """Where the control plane connects to, for what the runner listens on."""
        self._reached[seen.runner_id] = seen.address
        return self.shell.reach(seen.address)  # each time: a way that was lost is opened again

    def _forget_way(self, address: str) -> None:
        if isinstance(self.shell, Forwarding):
            self.shell.forget(address)

    def strays(self, known: set[str]) -> list[str]:
        """Ids of runners that lie or live there and that nobody knows."""
        return launch.find_strays(self.shell, self.root, known)

    def start(self, row: RunnerRow, definition: Definition, reservation: launch.Reservation, say: Say) -> None:
        """Put there what the runner needs, and start it.

        Raises:
            FalplanError: it can't run there, and why.
        """
        if self.as_root and self.direct is None and definition.kind == AppKind.FAL:
            detail = "It listens on a socket that the user who logs in may not open. "
            detail += "Leave `sudo: true` out for this host, or say `reach: direct`."
            raise FalplanError("A fal.App can't run as root there", detail)
        if self.units.run_as and self.systemd != "system":
            who = f"run_as: {self.units.run_as}"
            detail = f"{who} needs units of the system's systemd: log in as root, or with `sudo: true`, where systemd runs the host."
            raise FalplanError("It can't run as another user there", detail)
        image = self.image(definition, say)
        files = None if image else self.put_files(definition, say)
        python = self.environment(definition, say)
        launch.start_runner(
            self.shell,
            self.root,
            launch.RunnerLaunch(
                row.runner_id,
                self._argv(definition, python),
                listen="unix" if definition.kind == AppKind.FAL else "tcp",
                files=files,
                env=self._variables(row, definition, python),
                secrets=self.reveal(definition.secrets),
                startup_timeout=definition.seconds("startup_timeout"),
                grace=definition.seconds("termination_grace_period_seconds"),
                memory_limit=int(cast("int", row.placement["ram"])),
                gpus=tuple(int(cast("int", g)) for g in cast("list[Json]", row.placement["gpus"])),
                labels=self._labels(row),
                reservation=reservation,
                front=self._front(row),
                container=_container(row, definition, image) if image else None,
                unit=None if image else self._unit(row, definition, python),
            ),
            fence=self.fence,
        )

    def _front(self, row: RunnerRow) -> launch.Front | None:
        """The runner's way in from other machines, if it has one beside SSH."""
        if self.direct is None:
            return None
        return launch.Front(self.identify(row.runner_id), self.direct.ports, self.direct.address)

    def _unit(self, row: RunnerRow, definition: Definition, python: str | None) -> JsonObject | None:
        """What the agent needs to know for the runner's unit of systemd; None where none is made."""
        if not self.systemd:
            return None
        placed: JsonObject = {k: row.placement[k] for k in ("vcpu", "gpus")}
        return {
            **placed,
            "manager": self.systemd,
            "app": row.endpoint,
            "memory": row.placement["ram"],
            "grace": definition.seconds("termination_grace_period_seconds"),
            "run_as": self.units.run_as,
            "writable": list(self.units.writable),
            "front": self.direct is not None,
            "python": python,
        }

    def _labels(self, row: RunnerRow) -> JsonObject:
        if self.fence is None:
            return {}
        machine_type = str(row.placement["machine_type"])
        whose = (self.fence.lineage, self.fence.control_plane, self.fence.epoch, self.project)
        return Labels(*whose, row.endpoint, row.revision, machine_type, row.placement, row.created_at).to_json()

    def _argv(self, definition: Definition, python: str | None) -> tuple[str, ...]:
        if definition.kind == AppKind.FAL:
            return launch.fal_argv(cast("str", python), self.root, definition.entry)
        return definition.command

    def _variables(self, row: RunnerRow, definition: Definition, python: str | None) -> dict[str, str]:
        """What the app finds in its environment: names that fal sets, too, then the app's own variables."""
        values = {
            "FAL_APP_NAME": row.endpoint,
            "FAL_JOB_ID": row.runner_id,
            "FAL_REGION": str(row.placement["region"]),
        }
        if python is not None:
            folder = str(Path(python).parent)
            values["VIRTUAL_ENV"] = str(Path(folder).parent)
            values["PATH"] = f"{folder}:{self.search_path}"
        own = cast("Mapping[str, str]", definition.setting("environment_variables"))
        return {**values, **own}

    def stop(self, runner_id: str) -> bool:
        """Tell a runner to end, and wait for a moment. Whether it lives still.

        In short waits: a runner that takes its time to finish must not keep a thread of the pool from the others.
        """
        return launch.stop_runner(self.shell, self.root, runner_id, wait=STOP_WAIT, fence=self.fence).alive

    def kill(self, runner_id: str) -> None:
        """End a runner at once."""
        launch.kill_runner(self.shell, self.root, runner_id, fence=self.fence)

    def forget(self, runner_id: str) -> None:
        """Remove what an ended runner left."""
        launch.forget_runner(self.shell, self.root, runner_id)
        self.logs.forget(runner_id)

    def reserved(self) -> list[Reserved]:
        """What runners take there, as the ledger says; one that only serves learns in this way that it is not the owner any more."""
        ledger = read_ledger(self.shell, self.root)
        if self.fence is not None:
            check_fence(ledger, self.fence)
        return list(ledger.reservations)

    # -- what runners need ------------------------------------------------------------------------------------------------

    def prepare(self, definition: Definition, say: Say) -> None:
        """Put files and environment there, or the image."""
        if self.image(definition, say) is None:
            self.put_files(definition, say)
            self.environment(definition, say)

    def image(self, definition: Definition, say: Say) -> Image | None:
        """The definition's image, fetched if this machine does not have it yet; None of an app that is no container."""
        return ensure_image(self.shell, self.root, definition.image, progress=say) if definition.image else None

    def environment(self, definition: Definition, say: Say) -> str | None:
        """The interpreter of the definition's environment, built if this machine does not have it yet."""
        return (
            None if definition.lock is None else self._ensure(self.locks.on(definition.lock, self.platform, say), say)
        )

    def ensure(self, lock: Lock, say: Say, key: str = "") -> str:
        """The interpreter of a lock's environment, built if it is not there. The lock is of this machine's platform, among others.

        `key` is what the environment is called there; empty for the name that it has by what is in it.
        """
        return self._ensure(lock.on(self.platform), say, key)

    def _ensure(self, lock: Lock, say: Say, key: str = "") -> str:
        key = key or environments.environment_key(lock.text, lock.python, self.platform)
        if not self.elsewhere:
            if not environments.has_environment(self.shell, self.root, key):
                interpreter_of(lock.python, FINDING)  # which says what there is in its place
            return environments.ensure_environment(self.shell, self.root, key, lock, progress=say)
        uv, cache = self.uv(say), f"{self.root}/uv/cache"  # below the root, so that it goes with the host
        if not self.pushes or environments.has_environment(self.shell, self.root, key):
            return environments.ensure_environment(self.shell, self.root, key, lock, uv=uv, cache=cache, progress=say)
        wheels = f"{self.root}/uv/wheels/{lock.digest}"
        try:
            folder = ensure_wheels(self.home.cache, lock, progress=say)
            say(f"bringing {lock.packages} wheels there")
            self.shell.put_tree(folder, wheels)
            return environments.ensure_environment(
                self.shell, self.root, key, lock, uv=uv, cache=cache, wheels=wheels, progress=say
            )
        finally:
            self.shell.remove(wheels)

    def uv(self, say: Say) -> str:
        """Where uv lies there: it is brought along, as no machine has to have it."""
        own = self._own_uv(say)
        folder = f"{self.root}/uv/{self._uv_name(own)}"
        if not self.shell.list(folder):
            say("bringing uv there")
            with environments.folder_with(own) as alone:
                self.shell.put_tree(alone, folder)
        return f"{folder}/{own.name}"

    def _own_uv(self, say: Say) -> Path:
        """uv for that machine, as it lies here."""
        same = self.platform == own_platform()
        return Path(find_uv_bin()) if same else ensure_uv(self.home.cache, self.platform, progress=say)

    def _uv_name(self, own: Path) -> str:
        return f"{self.platform}-{own.stat().st_size:x}-{int(own.stat().st_mtime):x}"

    def _older_uvs(self) -> list[Unused]:
        """What earlier releases brought there of uv, once a later one brought its own."""
        there = [e.name for e in self.shell.list(f"{self.root}/uv") if e.name.startswith(f"{self.platform}-")]
        if not self.elsewhere or len(there) < 2:
            return []
        name = self._uv_name(self._own_uv(lambda text: None))
        return (
            [Unused("uv", f"{self.root}/uv/{n}") for n in there if n != name and "." not in n] if name in there else []
        )

    def put_files(self, definition: Definition, say: Say) -> str:
        """The folder with the definition's files, brought there if need be."""
        path = self.bundles.path(definition.bundle)
        try:
            with path.open("rb") as archive:
                tell = say if self.elsewhere else _quietly
                return ensure_bundle(self.shell, self.root, definition.bundle, archive, progress=tell)
        except FileNotFoundError:
            detail = f"{path} does not exist: `falplan apply` uploads them again."
            raise FalplanError("The app's files are gone", detail) from None

    # -- keeping house ----------------------------------------------------------------------------------------------------

    def forget_all_but(self, bundles: set[str], keys: set[str], images: set[str]) -> None:
        """Remove what no revision needs."""
        remove_images_except(self.shell, self.root, images)
        remove_bundles_except(self.shell, self.root, bundles)
        environments.remove_environments_except(self.shell, self.root, keys)

    def unused(self, needed: Needed, older_than: float) -> list[Unused]:
        """What lies there though nobody needs it."""
        return [*self.leftovers.find(needed, older_than), *self._older_uvs()]


def _quietly(line: str) -> None:
    """What takes no time is not worth a line."""


def _container(row: RunnerRow, definition: Definition, image: Image) -> JsonObject:
    """What the machine needs to know for the runner's container."""
    placed: JsonObject = {k: row.placement[k] for k in ("vcpu", "gpus")}
    return {**placed, "engine": image.engine, "image": image.id, "port": definition.port}
