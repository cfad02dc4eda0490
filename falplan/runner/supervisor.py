"""Keeps one app process: starts it, watches it, logs it, ends it. Knows nothing of who asked, and outlives them.

`python -I supervisor.py FOLDER` reads FOLDER/runner.json, and `{"secrets": {name: base64}}` from standard input. Secrets come no other
way, are bytes, and go into the app's environment alone. If runner.json has a `front`, as `fronting.py` describes it, what that is given
stands beside them: `{"front": {certificate, key, token}}`.
It returns once its daemon holds FOLDER/lock and has written FOLDER/status.json: status 0. Status 3: another one holds the lock.

`python -I supervisor.py FOLDER --unit` is that daemon itself, as the process of a systemd unit. It stays in the foreground; if runner.json
says `secrets`, it waits until that line is written into FOLDER/secrets, a fifo. Started again with the machine, it starts the app
again, unless that had ended by itself or FOLDER/ending says that it is to end for good.

Protocol 2, frozen: runner.json {protocol, runner_id, argv, cwd, env, clear_env, startup_timeout, grace, memory_limit, memory_by,
listen: {kind: unix | tcp}, container}, times in seconds, memory in bytes; status.json as `Status.write` makes it; log.jsonl of lines
{t: seconds since the epoch, s: STDOUT | STDERR | SYSTEM, m: text, r: request id or absent}, the first line being {base: N}, the
position of the file's own first byte in the log as a whole. One older file is kept as log.1.jsonl. SIGTERM ends the app.
With a `container`, as `containers.compose` takes it, `argv` is what runs in it; an engine's client is the app's process then.
Protocol 1 is the same but for standard input, which held `{"env": {name: text}}`; what it leaves on a machine reads alike.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from falplan.runner.fronting import Front

PROTOCOL = 2
LINUX = sys.platform.startswith("linux")
LOG_BYTES = 8 << 20
LINE_BYTES = 64 << 10
SOCKET_BYTES = 100  # sun_path holds 108 on Linux, 104 on macOS
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True) if LINUX else None


# -- processes ------------------------------------------------------------------------------------------------------------


def boot_id() -> str:
    """A text that changes with every boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        done = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], check=False, capture_output=True, text=True)
        return done.stdout.strip()


def stat_of(pid: int) -> tuple[str, int, str] | None:
    """(state letter, parent, start time) of a process; None if there is none."""
    if not LINUX:
        done = subprocess.run(
            ["ps", "-o", "stat=,ppid=,lstart=", "-p", str(pid)], check=False, capture_output=True, text=True
        )
        parts = done.stdout.split(None, 2)
        return (parts[0][0], int(parts[1]), parts[2].strip()) if len(parts) == 3 else None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), fields[19].decode()


def identity(pid: int) -> dict[str, Any] | None:
    """What names this process and no later one with its pid."""
    found = stat_of(pid)
    return {"pid": pid, "start": found[2], "boot_id": boot_id()} if found else None


def descendants(root: int) -> list[int]:
    """Pids of all living processes below `root`, itself not among them. Linux only; elsewhere empty."""
    if not LINUX:
        return []
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = stat_of(int(name))
            if found and found[0] != "Z":
                below.setdefault(found[1], []).append(int(name))
    all_below: list[int] = []
    todo = [root]
    while todo:
        children = below.get(todo.pop(), [])
        all_below += children
        todo += children
    return all_below


def prctl(option: int, value: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


# -- files ----------------------------------------------------------------------------------------------------------------


def write_whole(path: str, content: bytes) -> None:
    """Replace a file so that readers see the old or the new one."""
    temporary = f"{path}.tmp"
    with open(temporary, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(content)
    os.replace(temporary, path)


def lock(folder: str, tries: int = 25) -> int | None:
    """Hold FOLDER/lock until this process and its forks are gone; None if somebody else does. Probes hold it for an instant."""
    handle = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(tries):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError as exc:
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            time.sleep(0.02)
    os.close(handle)
    return None


class Log:
    """FOLDER/log.jsonl. A full disk loses lines, never the app."""

    def __init__(self, folder: str, limit: int = LOG_BYTES) -> None:
        self.path, self.older, self.limit = (
            os.path.join(folder, "log.jsonl"),
            os.path.join(folder, "log.1.jsonl"),
            limit,
        )
        self.base, self.size, self.lost = 0, 0, 0
        earlier = self.end_of(self.path)
        if earlier:
            os.replace(self.path, self.older)
        self._open(earlier)

    @staticmethod
    def end_of(path: str) -> int:
        """The position after the last byte of a log that an earlier life left, 0 without one."""
        try:
            with open(path, "rb") as file:
                return int(json.loads(file.readline())["base"]) + os.path.getsize(path)
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _open(self, base: int) -> None:
        head = f'{{"base":{base:>20}}}\n'.encode()
        self.file = open(self.path, "wb", buffering=0, opener=lambda p, f: os.open(p, f, 0o600))
        self.file.write(head)
        self.base, self.size = base, len(head)

    def add(self, source: str, text: str, request: str | None = None) -> None:
        """Append one line."""
        entry = {"t": round(time.time(), 6), "s": source, "m": text}
        if request:
            entry["r"] = request
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        try:
            if self.size + len(line) > self.limit and self.size > 64:
                self._rotate()
            self._append(line)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """No more lines will come."""
        self.file.close()

    def _append(self, line: bytes) -> None:
        written = self.file.write(line)
        if written is not None and written < len(line):  # the disk got full in mid-line: take it back
            self.file.truncate(self.size)
            self.file.seek(self.size)
            raise OSError(errno.ENOSPC, "disk full")
        self.size += len(line)

    def _rotate(self) -> None:
        self.file.close()
        os.replace(self.path, self.older)
        self._open(self.base + self.size)


class Lines:
    """Cuts one stream into lines for the log, and reads the request's mark that an app may put before a line."""

    def __init__(self, log: Log, source: str) -> None:
        self.log, self.source, self.rest, self.last = log, source, b"", ""

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they come; empty bytes end the stream."""
        whole, newline, self.rest = (self.rest + chunk).rpartition(b"\n")
        if newline:
            for line in whole.split(b"\n"):
                self._add(line)
        while len(self.rest) > LINE_BYTES or (not chunk and self.rest):
            self._add(self.rest[:LINE_BYTES])
            self.rest = self.rest[LINE_BYTES:]

    def _add(self, line: bytes) -> None:
        request = None
        if line[:1] == b"\x1f":
            mark, found, rest = line[1:].partition(b"\x1f")
            if found and len(mark) <= 128:
                request, line = mark.decode("utf-8", "replace"), rest
        for start in range(0, max(1, len(line)), LINE_BYTES):
            text = line[start : start + LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
            self.log.add(self.source, text, request)
            self.last = text.strip() or self.last


# -- memory ---------------------------------------------------------------------------------------------------------------


class Group:
    """A control group with a memory limit, version 1 or 2, where this user may make one."""

    def __init__(self, path: str, version: int) -> None:
        self.path, self.version = path, version

    @staticmethod
    def around() -> Group | None:
        """The group that this process is in, as a unit of systemd is: only to be asked."""
        return next((Group(path, version) for path, version in Group._places()), None)

    @staticmethod
    def make(name: str, limit: int) -> Group | None:
        """A new group, or None: polling must do."""
        for path, version in Group._places():
            group = Group(os.path.join(path, f"falplan-{name}"), version)
            try:
                group._limit(limit)
                group._try_to_join()
                return group
            except OSError:
                group.remove()
        return None

    @staticmethod
    def _places() -> Iterator[tuple[str, int]]:
        try:
            with open("/proc/self/cgroup", encoding="utf-8") as file:
                lines = [line.rstrip("\n").split(":", 2) for line in file]
        except OSError:
            return
        for _, controllers, path in lines:
            if "memory" in controllers.split(","):
                yield "/sys/fs/cgroup/memory" + path.rstrip("/"), 1
            elif not controllers:
                own = "/sys/fs/cgroup" + path.rstrip("/")
                yield own, 2
                yield os.path.dirname(own), 2

    def _limit(self, limit: int) -> None:
        os.mkdir(self.path)  # a missing parent means that this mount shows other groups than ours
        if self.version == 2:
            self._write("memory.max", limit)
            self._try("memory.swap.max", 0)
            self._try("memory.oom.group", 1)
        else:
            self._write("memory.limit_in_bytes", limit)
            self._try("memory.memsw.limit_in_bytes", limit)

    def _write(self, name: str, value: int) -> None:
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:  # fails where there is no such limit
            file.write(str(value))

    def _try(self, name: str, value: int) -> None:
        try:
            if os.path.exists(os.path.join(self.path, name)):
                self._write(name, value)
        except OSError:
            pass

    def _try_to_join(self) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                self.join()
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            raise OSError(errno.EPERM, "processes can't be moved there")

    def join(self) -> None:
        """Put the calling process in."""
        self._write("cgroup.procs", os.getpid())

    def exceeded(self) -> bool:
        """Whether the kernel killed somebody in it for memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        try:
            with open(os.path.join(self.path, name), encoding="ascii") as file:
                return any(line.split() and line.split()[0] == "oom_kill" and int(line.split()[1]) for line in file)
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the group; processes must be gone."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass


def memory_of(pids: Iterable[int]) -> int:
    """Bytes that processes hold together, memory they share counted once for each share."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        except (OSError, ValueError):
            total += resident(pid)
    return total


def resident(pid: int) -> int:
    """Bytes that one process holds, shared ones too."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


# -- the address ----------------------------------------------------------------------------------------------------------


def socket_folder(folder: str) -> str:
    """Where the socket lies: the runner's own folder, or a short private one if its path is too long for a socket."""
    if len(os.path.join(folder, "app.sock").encode()) <= SOCKET_BYTES:
        return folder
    import hashlib

    short = hashlib.sha256(folder.encode()).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for base in (os.path.join(runtime, "falplan") if runtime else "", f"/tmp/falplan-{os.getuid()}"):  # noqa: S108
        if base and len(base.encode()) + 26 <= SOCKET_BYTES and private(base):
            path = os.path.join(base, short)
            while not os.path.isdir(path):
                try:
                    os.mkdir(path, 0o700)
                except FileNotFoundError:
                    if not private(base):  # a runner that ended took the empty folder away
                        raise
            return path
    raise OSError(errno.EACCES, "there is no private folder with a short path for the app's socket")


def remove_socket_folder(path: str) -> None:
    """Remove the short folder of a long path's socket, and the one that it lies in if it was the last there."""
    for remove, name in (
        (os.unlink, os.path.join(path, "app.sock")),
        (os.rmdir, path),
        (os.rmdir, os.path.dirname(path)),
    ):
        try:
            remove(name)
        except OSError:
            pass


def private(path: str) -> bool:
    """Make a folder that only this user may enter; False if somebody else was there first."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError:
        return False
    return found.st_uid == os.getuid() and (found.st_mode & 0o170077) == 0o040000


def quiet_ports() -> range:
    """Ports that the system gives to no connection by itself: one that is free stays so until it is listened on. May be empty."""
    low, high = 49_152, 65_535
    if LINUX:
        try:
            with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
                low, high = (int(n) for n in file.read().split())
        except (OSError, ValueError):
            pass
    below, above = range(10_000, low), range(high + 1, 65_536)
    return below if len(below) >= len(above) else above


def free_port() -> tuple[int, socket.socket | None]:
    """A loopback port on which nothing listens, and what keeps other runners off it until the app does and for as long as it lives."""
    ports = quiet_ports()
    for _ in range(100 if ports else 0):
        port = ports[int.from_bytes(os.urandom(4), "big") % len(ports)]
        claim = claim_port(port)
        if claim is not None and is_free(port):
            return port, claim
        if claim is not None:
            claim.close()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1]), None


def claim_port(port: int) -> socket.socket | None:
    """A name that one process of this network namespace can have, as the port itself; None if another one has it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if LINUX:
        try:
            claim.bind(f"\0falplan-port-{port}")
        except OSError:
            claim.close()
            return None
    return claim


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def accepts(address: str) -> bool:
    """Whether something takes connections at `unix:/path` or `tcp:HOST:PORT`."""
    kind, _, where = address.partition(":")
    family: socket.AddressFamily = socket.AF_UNIX
    target: Any = where
    if kind == "tcp":
        host, _, port = where.rpartition(":")
        family, target = socket.AF_INET, (host, int(port))
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(target)
            # A connection to a free port of the ephemeral range may meet itself.
            return kind != "tcp" or sock.getsockname() != sock.getpeername()
        except OSError:
            return False


# -- the life -------------------------------------------------------------------------------------------------------------


class Supervisor:
    """One app process from start to end."""

    def __init__(self, folder: str, config: dict[str, Any], given: dict[str, Any], *, unit: bool = False) -> None:
        self.folder, self.config, self.unit = folder, config, unit
        self.secrets, self.for_front = secrets_in(given), given.get("front")
        self.front: Front | None = None
        self.container: dict[str, Any] | None = config.get("container")
        self.log = Log(folder, int(config.get("log_bytes") or LOG_BYTES))
        self.port_claim: socket.socket | None = None
        self.door: socket.socket | None = None  #: the app's socket, in a folder that is not the app's
        self.owner = owner_in(folder) if unit else None
        self.child = 0  # pid
        self.group: Group | None = None
        self.exit: int | None = None  # wait status of the child
        self.sockets = ""  # the folder of the app's socket
        self.kill_at: float | None = None
        self.ended_as: dict[str, Any] = {}  #: what a container's engine said of its end
        self.streams: dict[int, Lines] = {}
        self.pipes: list[Any] = []
        self.errors = -1
        self.reader = self.waker = -1
        self.selector = selectors.DefaultSelector()
        self.asked = False
        self.clients: set[int] = set()  #: pids of the engine's clients
        self.inside = 0  #: pid of a container's first process
        self.hint = ""
        self.pid = os.getpid()
        self.status: dict[str, Any] = {
            "protocol": PROTOCOL,
            "runner_id": config["runner_id"],
            "state": "SETUP",
            "supervisor": identity(os.getpid()),
            "child": None,
            "address": "",
            "socket_folder": "",
            "cgroup": "",
            "exit_code": None,
            "exit_signal": None,
            "reason": "",
            "created_at": time.time(),
            "ready_at": None,
            "stopping_at": None,
            "ended_at": None,
        }
        if unit:
            self.status["waits"] = "secrets" if config.get("secrets") else ""

    def tell(self, **values: Any) -> None:
        """Change the status file."""
        self.status.update(values)
        try:
            write_whole(os.path.join(self.folder, "status.json"), json.dumps(self.status).encode())
        except OSError:
            pass  # a full disk; the lock and the process still tell

    def catch_signals(self) -> None:
        """Handlers only note what came; the loop acts."""
        self.reader, self.waker = os.pipe()
        for end in (self.reader, self.waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.on_term)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)

    def live(self) -> None:
        """The whole life; returns when the app and all that it started are gone."""
        try:
            if self.status.get("waits") and not self.receive():
                self.finish(self.why_asked())
                return
            self.start()
        except ValueError as exc:
            self.finish(f"it can't be started: {exc}")
            return
        except OSError as exc:
            name = exc.filename or (self.config["argv"] or ["it"])[0]
            self.finish(f"{str(name)!r} can't be started: {exc.strerror}")
            return
        self.watch()
        self.clear()
        self.finish(self.status["reason"] or self.outcome())

    def on_term(self, *_: object) -> None:
        self.asked = True

    def why_asked(self) -> str:
        """Why it is told to stop: for good, or because its unit ends, which may begin again."""
        if self.unit and not os.path.exists(os.path.join(self.folder, "ending")):
            self.status["unit_stopped"] = True
            return "its unit was stopped, as when the machine goes down"
        return "told to stop"

    # -- start --

    def receive(self) -> bool:
        """Wait for the secrets, which lie nowhere on this machine. False if it is told to stop before they come."""
        self.selector.register(self.reader, selectors.EVENT_READ)
        handle = os.open(os.path.join(self.folder, "secrets"), os.O_RDONLY | os.O_NONBLOCK)
        keep = os.open(os.path.join(self.folder, "secrets"), os.O_WRONLY | os.O_NONBLOCK)  # no end between two writers
        self.selector.register(handle, selectors.EVENT_READ)
        came = b""
        try:
            while not self.asked:
                for key, _ in self.selector.select(0.5):
                    came += os.read(key.fd, 65536) if key.fd == handle else b""
                found, came = whole(came)
                if found is not None:
                    self.secrets, self.for_front = secrets_in(found), found.get("front")
                    self.tell(waits="")
                    return True
            return False
        finally:
            self.selector.unregister(handle)
            self.selector.unregister(self.reader)
            os.close(handle)
            os.close(keep)

    def start(self) -> None:
        address, extra = self.listen()
        limit = self.config.get("memory_limit")
        by_others = self.unit or self.container  # systemd limits a unit, an engine a container
        if limit and LINUX and self.config.get("memory_by") != "poll" and not by_others:
            self.group = Group.make(self.config["runner_id"], int(limit))
        self.status.update(address=address, cgroup=self.group.path if self.group else "")
        if self.config.get("front"):
            self.open_front()
        self.tell(state="SETUP")
        argv = [str(a) for a in self.config["argv"]]
        env = self.environment(extra)
        if self.container:
            argv, env = self.client(argv, extra)
        process = subprocess.Popen(
            argv,
            cwd="/" if self.container else self.config.get("cwd") or self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self.enter,
            pass_fds=(self.door.fileno(),) if self.door else (),
            **self.owner_of_app(),
        )
        if self.door:
            self.door.close()  # it is the app's now, who alone listens
        assert process.stdout and process.stderr  # noqa: S101 - both were asked for
        self.secrets = {}  # they are the app's now
        process.returncode = 0  # this supervisor reaps by itself
        self.child = process.pid
        self.clients.add(process.pid)
        self.streams[process.stdout.fileno()] = Lines(self.log, "STDOUT")
        self.streams[process.stderr.fileno()] = Lines(self.log, "STDERR")
        self.pipes, self.errors = [process.stdout, process.stderr], process.stderr.fileno()
        self.tell(child=identity(self.child))

    def open_front(self) -> None:
        """Let those in who know the runner's token, from other machines, before the app is there."""
        if TYPE_CHECKING or __package__:
            from falplan.runner import fronting
        else:
            find_neighbours()
            import fronting
        if not self.for_front:
            raise OSError(0, "nobody gave it a key", "TLS front")
        self.front = fronting.Front(self.config["front"], self.for_front, claim_port)
        self.for_front = None
        self.front.start(self.status["address"])
        self.streams[self.front.tells] = Lines(self.log, "SYSTEM")
        self.status["front"] = self.front.status()

    def keep_front(self) -> None:
        """Start its process again if it has ended."""
        if self.front is None or not self.front.is_due() or self.exit is not None:
            return
        try:
            self.front.start(self.status["address"])
        except OSError as exc:
            self.log.add("SYSTEM", f"its TLS front can't be started: {exc.strerror}")
        else:
            self.streams[self.front.tells] = Lines(self.log, "SYSTEM")
            self.selector.register(self.front.tells, selectors.EVENT_READ)

    def client(self, argv: list[str], extra: dict[str, str]) -> tuple[list[str], dict[str, str | bytes]]:
        """(argv, environment) of the engine's client that runs the container."""
        engine = containers()
        wanted: dict[str, Any] = self.container or {}
        port = int(extra["PORT"])
        told = {**extra, "PORT": str(wanted.get("port") or port), "HOST": "0.0.0.0"}  # noqa: S104 - of the container alone
        own = {"FALPLAN_RUNNER": self.config["runner_id"], "FALPLAN_RUNNER_FOLDER": self.folder}
        env = {k: str(v) for k, v in {**(self.config.get("env") or {}), **told, **own}.items()}
        words, given = engine.variables(env, self.secrets)
        devices = engine.devices(wanted["engine"], engine.uuids(wanted.get("gpus") or ()))
        begin = engine.compose(self.folder, self.config, port)
        return [*begin, *words, *devices, wanted["image"], *argv], {**given, **engine.own_environment()}

    def below(self) -> list[int]:
        """Pids of the app and of all that it started: this process's descendants but for the front.

        Of a container the engine's clients alone: what else an engine starts may be there for others, too.
        """
        if self.container:
            return [pid for pid in descendants(os.getpid()) if pid in self.clients]
        return [pid for pid in descendants(os.getpid()) if self.front is None or pid != self.front.pid]

    def listen(self) -> tuple[str, dict[str, str]]:
        """(address, environment variables that tell it to the app)."""
        if self.config["listen"]["kind"] == "tcp":
            port, self.port_claim = free_port()
            return f"tcp:127.0.0.1:{port}", {"PORT": str(port), "HOST": "127.0.0.1"}
        self.sockets = socket_folder(self.folder)
        path = os.path.join(self.sockets, "app.sock")
        if os.path.lexists(path):
            os.unlink(path)
        self.status["socket_folder"] = "" if self.sockets == self.folder else self.sockets
        if self.owner is None:
            return f"unix:{path}", {"FALPLAN_SOCKET": path}
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.door.bind(path)  # root's: the app can't put another one in its place
        return f"unix:{path}", {"FALPLAN_SOCKET": path, "FALPLAN_SOCKET_FD": str(self.door.fileno())}

    def owner_of_app(self) -> dict[str, Any]:
        """Whose process the app is to be, for Popen: this one's by default."""
        if self.owner is None:
            return {}
        return {"user": self.owner["uid"], "group": self.owner["gid"], "extra_groups": self.owner["groups"]}

    def environment(self, extra: dict[str, str]) -> dict[str, str | bytes]:
        env = {} if self.config.get("clear_env") else {n: os.environ[n] for n in PASSED_ON if n in os.environ}
        env.update(self.config.get("env") or {})
        own = {**extra, "FALPLAN_RUNNER": self.config["runner_id"], "FALPLAN_RUNNER_FOLDER": self.folder}
        return {**{str(k): str(v) for k, v in env.items()}, **self.secrets, **own}

    def enter(self) -> None:
        """In the child, before exec."""
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.pid:
            os._exit(1)
        if self.group:
            self.group.join()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)

    # -- watch --

    def watch(self) -> None:
        """Until the app has ended; when it was told to stop, until all that it started has ended or grace is over."""
        selector = self.selector
        selector.register(self.reader, selectors.EVENT_READ)
        for handle in self.streams:
            selector.register(handle, selectors.EVENT_READ)
        started = time.monotonic()
        startup = float(self.config.get("startup_timeout") or 600)
        probe_at, probe_wait, look_at = started, 0.01, started
        while not self.over():
            now = time.monotonic()
            if self.asked:
                self.stop(self.why_asked())
            if self.status["state"] == "SETUP" and now >= probe_at:
                self.probe(now - started, startup)
                probe_wait = min(0.1, probe_wait * 1.5)
                probe_at = time.monotonic() + probe_wait
            if now >= look_at:
                self.look()
                look_at = now + 0.5
            wait = min(probe_at if self.status["state"] == "SETUP" else look_at, look_at) - time.monotonic()
            if self.kill_at is not None:
                wait = min(wait, 0.03)
            for key, _ in selector.select(max(0.0, wait)):
                self.read(key.fd)
            self.reap()

    def over(self) -> bool:
        """Whether watching ends."""
        if self.kill_at is None:
            return self.exit is not None
        if time.monotonic() >= self.kill_at:
            return True
        return self.exit is not None and not self.below()

    def read(self, handle: int) -> None:
        try:
            chunk = os.read(handle, 65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if handle == self.reader:
            return
        self.streams[handle].feed(chunk)
        if not chunk:
            self.selector.unregister(handle)
            if self.front is not None and handle == self.front.tells:
                del self.streams[handle]  # that of another process of it may get the number

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.exit = status
            if self.front is not None and pid == self.front.pid:
                self.front_ended()

    def front_ended(self) -> None:
        """Read what its process still had to say; another one is started soon."""
        front = self.front
        assert front is not None  # noqa: S101 - it was asked for
        handle = front.tells
        while handle in self.streams:
            self.read(handle)
        front.ended()
        if self.kill_at is None and self.exit is None:
            self.log.add("SYSTEM", "its TLS front ended, and is started again")

    def probe(self, elapsed: float, limit: float) -> None:
        if accepts(self.status["address"]) and (not self.container or self.serves_inside()):
            self.tell(state="READY", ready_at=time.time())
            self.log.add("SYSTEM", f"ready after {elapsed:.1f} s")
        elif elapsed > limit:
            where = "inside its container on its port" if self.container else f"on {self.status['address']}"
            self.stop(f"startup timeout after {limit:g} s: nothing listens {where}{self.hint}")

    def serves_inside(self) -> bool:
        """Whether the app itself listens: an engine's proxy takes connections before that, and drops them."""
        wanted: dict[str, Any] = self.container or {}
        engine = containers()
        if not self.inside:
            self.inside = engine.pid_of(wanted["engine"], self.config["runner_id"])
        port = int(wanted.get("port") or self.status["address"].rpartition(":")[2])
        listens = engine.listens_in(self.inside, port) if self.inside else ""
        self.hint = ", but on its loopback alone, where nobody reaches it: use 0.0.0.0" if listens == "loopback" else ""
        return bool(listens == "any")

    def look(self) -> None:
        """Now and then: the memory where no control group limits it, and whether anybody still wants this runner."""
        limit = self.config.get("memory_limit")
        if limit and not self.group and not self.container and LINUX and self.exit is None:
            pids = self.below()
            if sum(map(resident, pids)) > limit and memory_of(pids) > limit:
                self.stop(memory_reason(limit), grace=0)
        if limit and self.unit and self.is_over_limit():
            self.stop(memory_reason(limit), grace=0)  # the kernel was faster, and ended one of its processes alone
        if not os.path.exists(os.path.join(self.folder, "runner.json")):
            self.stop("the runner's folder is gone")
        self.keep_front()

    def is_over_limit(self) -> bool:
        """Whether the kernel ended something of it for its memory."""
        around = Group.around() if self.unit and self.config.get("memory_limit") else self.group
        return around is not None and around.exceeded()

    # -- end --

    def stop(self, reason: str, grace: float | None = None) -> None:
        """SIGTERM for the app's group; SIGKILL for everything once grace is over. The first reason counts."""
        if self.kill_at is not None:
            return
        grace = float(self.config.get("grace", 5)) if grace is None else grace
        self.kill_at = time.monotonic() + grace
        self.tell(state="STOPPING", stopping_at=time.time(), reason=reason)
        self.log.add("SYSTEM", f"stopping: {reason}")
        if self.child and self.exit is None and not self.container:
            self.signal_group(signal.SIGTERM if grace > 0 else signal.SIGKILL)
        elif self.child and self.exit is None and grace > 0:
            self.stop_container(grace)

    def stop_container(self, grace: float) -> None:
        """Have the engine tell the app to end, with the signal that its image says. This process goes on reading its output."""
        wanted: dict[str, Any] = self.container or {}
        words = [
            wanted["engine"],
            "stop",
            "--time",
            str(int(grace) + 1),
            containers().name_of(self.config["runner_id"]),
        ]
        null = subprocess.DEVNULL
        try:
            stopping = subprocess.Popen(
                words, stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True, preexec_fn=self.enter
            )
        except OSError:
            return  # it is killed once grace is over
        stopping.returncode = 0  # this supervisor reaps by itself
        self.clients.add(stopping.pid)

    def end_container(self) -> None:
        """Learn how it ended, and take it away, alive or not. What can't be taken away now is noted: whoever looks knows of it."""
        wanted: dict[str, Any] = self.container or {}
        engine, home = containers(), containers().home_of(self.folder)
        self.ended_as = engine.state_of(wanted["engine"], self.config["runner_id"])
        try:
            engine.end(home, self.config["runner_id"])
        except engine.EngineFailed as exc:
            self.status["left"] = True
            self.log.add("SYSTEM", f"its container may be there still: {exc}")

    def signal_group(self, number: int) -> None:
        try:
            os.killpg(self.child, number)
        except (ProcessLookupError, PermissionError):
            pass

    def clear(self) -> None:
        """Kill and reap whatever is left, and read what it still had to say."""
        if self.container:
            self.end_container()
        deadline = time.monotonic() + 10
        self.signal_group(signal.SIGKILL)
        while time.monotonic() < deadline:
            left = self.below()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.reap()
            self.drain()
            if self.exit is not None and not left:
                break
            time.sleep(0.005)
        self.end_front()
        self.drain()
        for lines in self.streams.values():
            lines.feed(b"")

    def end_front(self) -> None:
        """Let it pass on what the app still answered."""
        if self.front is None:
            return
        deadline = self.front.let_finish()
        while self.front.pid:
            if time.monotonic() > deadline:
                self.front.kill()
            self.reap()
            self.drain()
            time.sleep(0.005)

    def drain(self) -> None:
        for _ in range(64):  # more than a pipe holds; not for ever, if somebody could not be killed
            ready = self.selector.select(0)
            for key, _ in ready:
                self.read(key.fd)
            if not ready:
                return

    def outcome(self) -> str:
        """Why it ended, in words."""
        if self.container:
            return self.outcome_of_container()
        if self.is_over_limit():
            return memory_reason(self.config["memory_limit"])
        if self.exit is None:
            return "it could not be killed"
        if os.WIFSIGNALED(self.exit):
            return killed_by(os.WTERMSIG(self.exit))
        return f"exited with status {os.WEXITSTATUS(self.exit)}"

    def outcome_of_container(self) -> str:
        """As its engine tells of it, in the words of other apps."""
        engine = str((self.container or {})["engine"])
        if self.ended_as.get("oom"):
            return memory_reason(self.config["memory_limit"])
        if self.exit is None or os.WIFSIGNALED(self.exit):
            return f"{engine}'s client was ended, and its container with it"
        code = os.WEXITSTATUS(self.exit)
        if code == containers().COULD_NOT_RUN and self.ended_as.get("status") not in ("exited", "running"):
            return f"{engine} could not run it"
        if 128 < code < 128 + 65:
            self.exit = code - 128  # as the wait status of a process that a signal ended
            limit = self.config.get("memory_limit")
            more = f", as happens beyond its memory limit of {int(limit) / 1e6:.0f} MB" if limit and code == 137 else ""
            return killed_by(code - 128) + more
        return f"exited with status {code}"

    def finish(self, reason: str) -> None:
        code = os.WEXITSTATUS(self.exit) if self.exit is not None and os.WIFEXITED(self.exit) else None
        number = os.WTERMSIG(self.exit) if self.exit is not None and os.WIFSIGNALED(self.exit) else None
        before = self.status["ready_at"] is None and self.kill_at is None and self.exit is not None
        if before:
            words = self.streams[self.errors].last[:300]
            words = words[9:] if words.startswith("falplan: ") else words
            reason += " before it was ready" + (f": {words}" if words else "")
        lost = f" ({self.log.lost} log lines were lost)" if self.log.lost else ""
        self.log.add("SYSTEM", f"ended: {reason}{lost}")
        if self.group:
            self.group.remove()
        if self.sockets and self.sockets != self.folder:
            remove_socket_folder(self.sockets)
        self.tell(state="EXITED", exit_code=code, exit_signal=number, reason=reason, ended_at=time.time())


def containers() -> Any:
    """The module beside this one, which only runners need that are containers."""
    if TYPE_CHECKING or __package__:
        from falplan.runner import containers
    else:
        find_neighbours()
        import containers
    return containers


def find_neighbours() -> None:
    """A script finds those only if it is told where: -I keeps its folder off the path."""
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.insert(0, here)


def killed_by(number: int) -> str:
    """In words."""
    return f"killed by signal {number}" + (f" ({signal.Signals(number).name})" if number < 32 else "")


def memory_reason(limit: int) -> str:
    """In whole megabytes, as limits are written."""
    return f"memory limit {int(limit) / 1e6:.0f} MB exceeded"


def owner_in(folder: str) -> dict[str, Any] | None:
    """{uid, gid, groups} of whom the app is to run as, where a unit says so and this process is root."""
    try:
        with open(os.path.join(folder, "owner.json"), "rb") as file:
            found: dict[str, Any] = json.loads(file.read())
    except FileNotFoundError:
        return None
    return found if os.getuid() == 0 else None


def secrets_in(given: dict[str, Any]) -> dict[str, bytes]:
    """The app's secrets in what was given to its supervisor."""
    return {name: base64.b64decode(value) for name, value in (given.get("secrets") or {}).items()}


def whole(came: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """What a line of secrets says, once it is there, and what is kept of the bytes: a writer that died leaves part of one."""
    line, newline, rest = came.rpartition(b"\n")
    if not newline:
        return None, came
    try:
        found: dict[str, Any] = json.loads(line.rpartition(b"\n")[2])
    except ValueError:
        return None, rest
    return (found if "secrets" in found else None), rest


def supervise(folder: str, given: dict[str, Any], told: int | None) -> None:
    """In the daemon. `told` is written to once the status file is there; None in a unit."""
    with open(os.path.join(folder, "runner.json"), encoding="utf-8") as file:
        config = json.load(file)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = Supervisor(folder, config, given, unit=told is None)
    supervisor.catch_signals()
    supervisor.tell()
    if told is not None:
        os.write(told, b"1")
        os.close(told)
    try:
        supervisor.live()
    except BaseException as exc:
        for pid in supervisor.below() if supervisor.container else descendants(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        if supervisor.container:
            supervisor.end_container()
        supervisor.finish(f"the supervisor failed: {type(exc).__name__}: {exc}")
        raise


def in_unit(folder: str) -> int:
    """The process of a unit, until the app has ended. It does nothing if the app ended before, or is to end."""
    folder = os.path.realpath(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    handle = lock(folder)
    if handle is None:
        return 3
    try:
        with open(os.path.join(folder, "status.json"), "rb") as file:
            before = json.loads(file.read())
    except (OSError, ValueError):
        before = {}
    over = before.get("state") == "EXITED" and not before.get("unit_stopped")
    if not over and not os.path.exists(os.path.join(folder, "ending")):
        supervise(folder, {}, None)
    elif not over and before:
        write_whole(os.path.join(folder, "status.json"), json.dumps({**before, **ENDED_WHILE_DOWN}).encode())
    return 0


ENDED_WHILE_DOWN = {"state": "EXITED", "reason": "it was told to stop when the machine went down"}


def main(folder: str) -> int:
    """Returns in the process that was called; the daemon goes on."""
    folder = os.path.realpath(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the app inherits it: no dump of it holds a secret either
    given = json.loads(sys.stdin.buffer.read() or b"{}")
    handle = lock(folder)
    if handle is None:
        return 3
    reader, told = os.pipe()
    if os.fork():
        os.close(told)
        return 0 if os.read(reader, 1) else 1
    os.close(reader)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(os.path.join(folder, "supervisor.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, target in ((0, null), (1, null), (2, errors)):
        os.dup2(target, number)
    os.chdir("/")
    supervise(folder, given, told)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(in_unit(sys.argv[1]) if "--unit" in sys.argv[2:] else main(sys.argv[1]))
