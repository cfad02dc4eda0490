"""Runners on a machine: start, observe, stop, kill, forget. Everything goes through a Shell; knows nothing of why."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from falplan.control.ledger import Fence, ask_ledger
from falplan.core.errors import FalplanError
from falplan.core.secret import SecretValue
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp
from falplan.sdk.scripts import tool
from falplan.sdk.shell import Shell
from falplan.stores.runner_identity import RunnerIdentity

PROTOCOL = 2
"""That of the supervisors that are started; `falplan/runner/supervisor.py` describes it."""

SUPPORTED = (1, PROTOCOL)
"""Those of supervisors that may run already: an upgrade finds runners that the release before it started."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a runner takes, and the machine that it has to fit into beside those of other projects: vCPU and RAM (bytes) for runners."""

    vcpu: float
    ram: int
    gpus: tuple[int, ...]
    machine_vcpu: float
    machine_ram: int
    strict: bool = False

    def to_json(self) -> JsonObject:
        machine: JsonObject = {"vcpu": self.machine_vcpu, "ram": self.machine_ram, "strict": self.strict}
        return {"vcpu": self.vcpu, "ram": self.ram, "gpus": list(self.gpus), "machine": machine}


@dataclass(frozen=True, slots=True)
class Front:
    """How a runner is reached from other machines without SSH: by TLS, on one of `ports` (first and last) of the machine.

    It listens at `bind` if that is an address of the machine, at all of its addresses otherwise.
    """

    identity: RunnerIdentity
    ports: tuple[int, int]
    bind: str = ""

    def told(self) -> JsonObject:
        """What stands in the runner's folder."""
        return {"ports": list(self.ports), "bind": self.bind, "fingerprint": self.identity.fingerprint}

    def given(self) -> JsonObject:
        """What is given to its supervisor alone, as secrets are."""
        key, token = (value.reveal().decode() for value in (self.identity.key, self.identity.token))
        return {"certificate": self.identity.certificate, "key": key, "token": token}


@dataclass(frozen=True, slots=True)
class RunnerLaunch:
    """A runner to be started. `files` is a folder whose files are linked into the runner's own work folder, where the app then runs.

    `listen` is `unix` (the app gets FALPLAN_SOCKET) or `tcp` (it gets PORT and HOST). `memory_limit` in bytes, times in seconds.
    `gpus` are indices; an empty tuple hides all GPUs. `labels` are kept with the runner, for a control plane that never heard of it.
    A `container` is {engine, image, port, vcpu, gpus} as `falplan.runner.containers` takes it; `argv` is then what runs in it, or empty.
    With a `reservation`, and a fence, it is recorded in the machine's ledger before it is started. `secrets`, by the name of their
    variable, go to the app's environment through standard input alone: never into a file, an argv or another process's environment.
    """

    runner_id: str
    argv: tuple[str, ...]
    listen: str = "tcp"
    files: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretValue] = field(default_factory=dict, repr=False)
    startup_timeout: float = 600.0
    grace: float = 5.0
    memory_limit: int | None = None
    gpus: tuple[int, ...] = ()
    options: Mapping[str, Json] = field(default_factory=dict)  #: of the supervisor: log_bytes, memory_by, clear_env
    labels: Mapping[str, Json] = field(default_factory=dict)
    reservation: Reservation | None = None
    front: Front | None = None
    container: JsonObject | None = None
    unit: JsonObject | None = (
        None  #: of systemd, as `falplan.runner.units.compose` wants it; None for a process that nobody brings back
    )


@dataclass(frozen=True, slots=True)
class ObservedRunner:
    """A runner as its machine shows it.

    `state` is SETUP, READY, STOPPING or EXITED as its supervisor wrote it, STARTING or ABSENT before that, LOST if the supervisor is gone
    without having written an end. `alive`: the supervisor lives. `survivors` are pids that outlived it. Times in seconds since the epoch.
    """

    runner_id: str
    state: str
    alive: bool
    address: str = ""
    reason: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    created_at: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    pid: int | None = None
    survivors: tuple[int, ...] = ()
    labels: Mapping[str, Json] = field(default_factory=dict)
    waits: bool = False  #: for its secrets, after its machine was restarted
    front_port: int = 0  #: where it is reached from other machines; 0 without a TLS front
    spoiled: bool = False  #: somebody changed what it is run from
    front_fingerprint: str = ""  #: of the certificate that is shown there

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.alive and self.state == "READY"


def fal_argv(python: str, root: str, entry: str) -> tuple[str, ...]:
    """The argv that serves a fal.App, `path.py::Class`, in the environment of `python`."""
    return (python, "-u", tool(root, "fal_server.py"), entry)


def start_runner(shell: Shell, root: str, launch: RunnerLaunch, *, fence: Fence | None = None) -> ObservedRunner:
    """Start a runner, once for each id: a second call finds what became of the first. Returns when its supervisor watches it.

    Raises:
        Fenced: another control plane took the machine since the fence was given out.
        RoomTaken: the reservation does not fit beside what others' runners take.
        FalplanError: the supervisor could not be started. An app that can't be started is a runner that EXITED.
    """
    config: JsonObject = {
        **launch.options,
        "protocol": PROTOCOL,
        "runner_id": launch.runner_id,
        "argv": list(launch.argv),
        "cwd": launch.cwd,
        "env": {**_gpu_environment(launch), "PYTHONUNBUFFERED": "1", **launch.env},
        "startup_timeout": launch.startup_timeout,
        "grace": launch.grace,
        "memory_limit": launch.memory_limit,
        "listen": {"kind": launch.listen},
        "labels": dict(launch.labels),
    }
    if launch.container is not None:
        config["container"] = launch.container
    if launch.front is not None:
        config["front"] = launch.front.told()
    request: JsonObject = {
        "verb": "start",
        "root": root,
        "supervisor": tool(root, "supervisor.py"),
        "config": config,
        "files": launch.files,
        "secrets": {name: base64.b64encode(value.reveal()).decode() for name, value in launch.secrets.items()},
        "front": launch.front.given() if launch.front else None,
        "reserve": launch.reservation.to_json() if launch.reservation else None,
        "unit": launch.unit,
        **_fence(fence),
    }
    fp("runner.start.before_call")
    answer = ask_ledger(shell, root, request)
    fp("runner.start.after_call")
    return _observed(answer)


def observe_runners(shell: Shell, root: str) -> list[ObservedRunner]:
    """All runners of a root, sorted by id, in one call."""
    return [_observed(a) for a in cast("list[Json]", ask_ledger(shell, root, {"verb": "observe", "root": root}))]


def stop_runner(
    shell: Shell, root: str, runner_id: str, *, wait: float = 0.0, fence: Fence | None = None
) -> ObservedRunner:
    """Tell a runner to stop: SIGTERM, grace, SIGKILL. Returns when it is gone, or after `wait` seconds. May be called again."""
    request: JsonObject = {"verb": "stop", "root": root, "runner_id": runner_id, "wait": wait, **_fence(fence)}
    return _observed(ask_ledger(shell, root, request, timeout=wait + 30))


def kill_runner(shell: Shell, root: str, runner_id: str, *, fence: Fence | None = None) -> ObservedRunner:
    """End a runner at once, with everything that carries its mark, even if its supervisor or its folder is gone."""
    return _observed(ask_ledger(shell, root, {"verb": "kill", "root": root, "runner_id": runner_id, **_fence(fence)}))


def forget_runner(shell: Shell, root: str, runner_id: str) -> None:
    """Remove the folder of a runner that is gone, its log too. May be called again.

    Raises:
        FalplanError: it is still alive.
    """
    ask_ledger(shell, root, {"verb": "forget", "root": root, "runner_id": runner_id})


def idle_homes(shell: Shell, root: str, apps: Iterable[str]) -> list[str]:
    """Names of homes, below this root, of other apps than these."""
    request: JsonObject = {"verb": "idle_homes", "root": root, "apps": list(apps)}
    return [str(name) for name in cast("list[Json]", ask_ledger(shell, root, request))]


def forget_homes(shell: Shell, root: str, homes: Iterable[str], *, fence: Fence | None = None) -> None:
    """Remove homes of apps, by name, whose user no runner has. May be called again.

    Raises:
        Fenced: another control plane took the machine.
    """
    ask_ledger(shell, root, {"verb": "forget_homes", "root": root, "homes": list(homes), **_fence(fence)})


def find_strays(shell: Shell, root: str, known_ids: Iterable[str]) -> list[str]:
    """Ids of runners that lie or live below this root and that nobody knows, sorted."""
    request: JsonObject = {"verb": "strays", "root": root, "known": list(known_ids)}
    return [str(i) for i in cast("list[Json]", ask_ledger(shell, root, request))]


def _fence(fence: Fence | None) -> JsonObject:
    return {"fence": cast("JsonObject", asdict(fence))} if fence else {}


def _gpu_environment(launch: RunnerLaunch) -> dict[str, Json]:
    if launch.container is not None:
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # it has no others than its own, and they begin at 0
    # CUDA counts GPUs by speed unless it is told to count as nvidia-smi does.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, launch.gpus))}


def _observed(answer: Json) -> ObservedRunner:
    a = cast("dict[str, Any]", answer)
    if a.get("protocol", PROTOCOL) not in SUPPORTED:
        detail = f"Runner {a['runner_id']} was started by another version (protocol {a['protocol']}). Use that one to stop it."
        raise FalplanError("A runner speaks another protocol", detail)
    return ObservedRunner(
        runner_id=a["runner_id"],
        state=a["state"],
        alive=a["alive"],
        address=a.get("address", ""),
        reason=a["reason"],
        exit_code=a.get("exit_code"),
        exit_signal=a.get("exit_signal"),
        created_at=a.get("created_at"),
        ready_at=a.get("ready_at"),
        ended_at=a.get("ended_at"),
        pid=(a.get("child") or {}).get("pid"),
        survivors=tuple(a["survivors"]),
        labels=a.get("labels") or {},
        waits=a["alive"] and bool(a.get("waits")),
        spoiled=bool(a.get("spoiled")),
        front_port=int((a.get("front") or {}).get("port", 0)),
        front_fingerprint=str((a.get("front") or {}).get("fingerprint", "")),
    )
