"""Containers of Docker or Podman: composes the command that runs one, knows those of a folder again, and ends them. Never others'.

A part of the agent: lies beside it on each machine. A container's labels say below which folder its runner lies and which one it is; what
does not have them is not ours. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

ENGINES = ("podman", "docker")
"""In order of preference: Podman has no daemon whose end is that of all containers, and gives its user no rights that are root's."""
HOME, RUNNER = "falplan.home", "falplan.runner"
FOLDER = "containers"
"""Of falplan's folder: in it lies a file for each engine that was used there, and the record of images."""
PIDS = 4096
ASKING = 60.0  # seconds for one answer of an engine
COULD_NOT_RUN = 125
"""Exit status of an engine's client that ran nothing."""
VARIABLES = (
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "REGISTRY_AUTH_FILE",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
)
"""What an engine's client may need of its caller's environment, beside where programs and the user's home are."""
ITS_OWN = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "TZ", "NOTIFY_SOCKET", "LISTEN_FDS", *VARIABLES}
)
ITS_OWN_BEGIN = (
    "DOCKER_",
    "CONTAINER",
    "_CONTAINER",
    "PODMAN_",
    "BUILDAH_",
    "STORAGE_",
    "XDG_",
    "LD_",
    "LC_",
    "GO",
    "SSL_CERT",
    "REGISTRY_",
)
"""Beginnings of names that mean something to an engine's client itself."""


class EngineFailed(Exception):
    """An engine did not do what it was asked to; the text is what it said."""


# -- which -----------------------------------------------------------------------------------------------------------------


def usable() -> list[str]:
    """The engines that this user may use, by their names and Docker's socket: none is run."""
    return [name for name in ENGINES if is_installed(name) and (name != "docker" or docker_answers())]


def docker_answers() -> bool:
    """Whether this user can connect to a Docker of this machine."""
    given = os.environ.get("DOCKER_HOST", "")
    if given and not given.startswith("unix://"):
        return False  # its containers are another machine's
    own = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "docker.sock")
    return any(map(listens, [given[7:]] if given else ["/var/run/docker.sock", own]))


def listens(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        try:
            sock.connect(path)
            return True
        except OSError:
            return False


def ask(engine: str, *args: str, timeout: float = ASKING) -> str:
    """What an engine prints.

    Raises:
        EngineFailed: it failed, did not answer in time, or is not there.
    """
    import subprocess  # takes a fifth of the time of a look, which asks nobody

    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [engine, *args],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"{engine} {args[0]}: it did not answer within {timeout:g} s") from None
    except OSError as exc:
        raise EngineFailed(f"{engine}: {exc.strerror}") from exc
    if done.returncode:
        raise EngineFailed(f"{engine} {args[0]}: {said(done.stderr or done.stdout) or f'status {done.returncode}'}")
    return done.stdout


def said(text: str) -> str:
    """The last of what an engine said, in a line."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "level=warning" not in line]
    return " ".join(lines[-3:])[:600]


# -- one runner ------------------------------------------------------------------------------------------------------------


def home_of(folder: str) -> str:
    """The folder of falplan's things that a runner's folder lies in."""
    return os.path.dirname(os.path.dirname(folder))


def name_of(runner_id: str) -> str:
    """What a runner's container is called."""
    return f"falplan-{runner_id}"


def compose(folder: str, config: Mapping[str, Any], port: int) -> list[str]:
    """The command that runs a runner's container in the foreground, less its variables, its GPUs and its image.

    `config` is runner.json; its `container` is {engine, image, command, port, vcpu, gpus}: `port` 0 for the one that the app is told.
    Nothing is fetched, and nothing of its output is kept by the engine: the runner's log has it.
    """
    wanted, runner_id = config["container"], config["runner_id"]
    engine = wanted["engine"]
    cpus = min(float(wanted["vcpu"]), float(os.cpu_count() or 1))
    argv = [engine, "run", "--name", name_of(runner_id), "--init", "--pull", "never", "--sig-proxy=false"]
    argv += ["--log-driver", "none", "--label", f"{HOME}={home_of(folder)}", "--label", f"{RUNNER}={runner_id}"]
    argv += ["--publish", f"127.0.0.1:{port}:{wanted.get('port') or port}"]
    argv += ["--security-opt", "no-new-privileges", "--pids-limit", str(PIDS), "--cpus", f"{max(cpus, 0.01):.2f}"]
    if config.get("memory_limit"):
        argv += ["--memory", str(int(config["memory_limit"])), "--memory-swap", str(int(config["memory_limit"]))]
    return argv


def devices(engine: str, gpus: Sequence[str]) -> list[str]:
    """The GPUs of a runner by their UUIDs and no others, whatever its image, its settings or a runtime ask for by themselves."""
    if not gpus:
        return ["--env", "NVIDIA_VISIBLE_DEVICES=void"]
    if engine == "docker":
        return ["--gpus", f'"device={",".join(gpus)}"', "--env", f"NVIDIA_VISIBLE_DEVICES={','.join(gpus)}"]
    return [
        *(word for uuid in gpus for word in ("--device", f"nvidia.com/gpu={uuid}")),
        "--env",
        "NVIDIA_VISIBLE_DEVICES=void",
    ]


def variables(env: Mapping[str, str], secrets: Mapping[str, bytes]) -> tuple[list[str], dict[str, str | bytes]]:
    """(words of the command, environment of the client) that give an app its variables. A secret is never among the words.

    What means something to the client itself can't come by its environment: settings stand among the words then, as in the spec.

    Raises:
        ValueError: a secret has such a name.
    """
    argv: list[str] = []
    given: dict[str, str | bytes] = {}
    for name in sorted({*env, *secrets}):
        own = name in ITS_OWN or name.startswith(ITS_OWN_BEGIN)
        if own and name in secrets:
            raise ValueError(
                f"the secret {name} has a name that the container engine reads itself: give it another one"
            )
        if own:
            argv += ["--env", f"{name}={env[name]}"]
        else:
            argv += ["--env", name]
            given[name] = secrets.get(name, env.get(name, ""))
    return argv, given


def own_environment() -> dict[str, str]:
    """What the client itself gets of this process's environment."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", *VARIABLES)
    return {name: os.environ[name] for name in names if name in os.environ}


def uuids(gpus: Sequence[int]) -> list[str]:
    """UUIDs of GPUs by their indices, in their order.

    Raises:
        OSError: nvidia-smi does not know one.
    """
    if not gpus:
        return []
    import subprocess

    argv = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    lines = (line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1)
    known = {index.strip(): uuid.strip() for index, uuid in lines}
    missing = [str(g) for g in gpus if str(g) not in known]
    if missing:
        raise OSError(0, f"nvidia-smi knows no GPU {', '.join(missing)}", "nvidia-smi")
    return [known[str(g)] for g in gpus]


def state_of(engine: str, runner_id: str) -> dict[str, Any]:
    """{code, oom, status} of a runner's container; empty if the engine has none or does not say."""
    try:
        body = json.loads(
            ask(engine, "inspect", "--type", "container", "--format", "{{json .State}}", name_of(runner_id))
        )
        return {"code": int(body["ExitCode"]), "oom": bool(body.get("OOMKilled")), "status": str(body["Status"])}
    except (EngineFailed, ValueError, KeyError, TypeError):
        return {}


def pid_of(engine: str, runner_id: str) -> int:
    """The first process of a runner's container; 0 as long as there is none."""
    try:
        return int(
            ask(engine, "inspect", "--type", "container", "--format", "{{.State.Pid}}", name_of(runner_id), timeout=5)
        )
    except (EngineFailed, ValueError):
        return 0


def listens_in(pid: int, port: int) -> str:
    """Where in the network of a process something listens on a port: `any`, `loopback` alone, or empty for nowhere.

    Where that can't be seen, as in an engine's own virtual machine, it is taken for `any`.
    """
    seen = False
    found = ""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                lines = [line.split() for line in file][1:]
        except OSError:
            continue
        seen = True
        for words in lines:
            address, _, number = words[1].partition(":")
            if words[3] == LISTENING and int(number, 16) == port:
                if not is_loopback(address):
                    return "any"
                found = "loopback"
    return found if seen or os.path.isdir("/proc/self/net") else "any"


LISTENING = "0A"


def is_loopback(address: str) -> bool:
    """Of an address as the kernel writes it, in the order of bytes of most machines."""
    return address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000"


# -- those of a folder -----------------------------------------------------------------------------------------------------


def note_use(home: str, engine: str) -> None:
    """From now on an engine is asked what of ours it has. Before the first container there."""
    os.makedirs(os.path.join(home, FOLDER), mode=0o700, exist_ok=True)
    open(os.path.join(home, FOLDER, engine), "ab").close()


def used(home: str) -> list[str]:
    """The engines that have, or had, containers of a folder. One that was taken off the machine since has none."""
    return [name for name in ENGINES if os.path.exists(os.path.join(home, FOLDER, name)) and is_installed(name)]


def is_installed(engine: str) -> bool:
    """Whether there is such a program."""
    import shutil

    return shutil.which(engine) is not None


def of_runner(home: str, runner_id: str = "", *, running: bool = False) -> dict[str, list[str]]:
    """Engine -> ids of the containers of a folder, or of one runner of it.

    Raises:
        EngineFailed: an engine that was used there can't be asked.
    """
    filters = ["--filter", f"label={HOME}={home}", *(["--filter", f"label={RUNNER}={runner_id}"] if runner_id else [])]
    filters += ["--filter", "status=running"] if running else []
    return {e: ask(e, "ps", "--all", "--quiet", "--no-trunc", *filters).split() for e in used(home)}


def runners(home: str) -> set[str]:
    """Ids of the runners of a folder that have a container, whether it runs or not.

    Raises:
        EngineFailed
    """
    found: set[str] = set()
    for engine, ids in of_runner(home).items():
        for one in ids:
            try:
                label = ask(
                    engine,
                    "inspect",
                    "--type",
                    "container",
                    "--format",
                    f'{{{{index .Config.Labels "{RUNNER}"}}}}',
                    one,
                )
            except EngineFailed:
                continue  # it went meanwhile
            found.add(label.strip())
    return found - {""}


def pids(folder: str) -> list[int]:
    """Processes of a runner's container that lives though its supervisor does not. None if its engine can't be asked: its processes
    carry the runner's mark, too."""
    found = []
    try:
        for engine, ids in of_runner(home_of(folder), os.path.basename(folder), running=True).items():
            inspect = (engine, "inspect", "--type", "container", "--format", "{{.State.Pid}}")
            found += [int(ask(*inspect, one)) for one in ids]
    except (EngineFailed, ValueError):
        return found
    return found


def end(home: str, runner_id: str) -> None:
    """Kill and remove a runner's container, if there is one. May be called again.

    Raises:
        EngineFailed: it may live still.
    """
    for engine, ids in of_runner(home, runner_id).items():
        remove(engine, ids)


def remove(engine: str, ids: Iterable[str]) -> None:
    """Kill and remove containers, and volumes that were made for them alone. Those that are gone are no error."""
    for one in ids:
        try:
            ask(engine, "rm", "--force", "--volumes", *(["--time", "0"] if engine == "podman" else []), one)
        except EngineFailed as exc:
            if "no such container" not in str(exc).lower() and "no container with" not in str(exc).lower():
                raise


if __name__ == "__main__":
    sys.stdout.write(json.dumps(usable()))
