"""Falplan's hand on a machine: does what comes over one connection, and outlives it for as long as a job needs.

It is sent over the connection itself and never lies on the machine. Frames go both ways: eight bytes, big-endian, with the lengths of
what follows, a JSON object and a payload. Each request has an `id`, unique on this connection, and a verb, `do`; its answer has the same
id and either `ok` or `error`, after any number of `line`s. A request that needs more than one frame gets the others as
`{"id", "do": "data"}`, and acknowledges what it has written.

A `job` is a command with a name of its own, in a folder of jobs. It is begun once, however often it is asked for: when the connection is
lost, it goes on, and how it ended is told to whoever asks for it by that name.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import queue
import signal
import struct
import sys
import threading
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import commands, inventory, placing, units
    from falplan.runner.processes import boot_id, is_same, read_json, start_of
else:  # on a machine its neighbours came with it
    import commands
    import inventory
    import placing
    import units
    from processes import boot_id, is_same, read_json, start_of

READY = b"\0falplan-hand\0"
HEAD = struct.Struct(">II")
PIECE = 1 << 18
STALE = 86_400.0  # seconds after which nobody will come back for an unfinished upload, or for how a job ended
PATIENCE = 0.05
QUIET = 20.0  # seconds without any of an upload after which whoever sends it counts as gone; the system may take hours to say so
KNOCK = 15.0  # seconds of silence after which something is said, unasked: only who says something learns that nobody is there
NOTED = 5.0  # seconds within which the end of a job's process is noted, or a job that was begun has a process


class Answered(Exception):
    """Why something was not done, as it is told: `kind` and details."""

    def __init__(self, kind: str, **details: Any) -> None:
        super().__init__(kind)
        self.body = {**details, "kind": kind}


class Hand:
    """One connection. Requests are answered in threads of their own; `send` keeps their frames apart."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self.reader, self.writer = reader, writer
        self.turn = threading.Lock()
        self.open: dict[int, queue.Queue[bytes | None]] = {}
        self.lost = threading.Event()
        self.heard = time.monotonic()
        self.busy: set[int] = (
            set()
        )  #: requests that the end of the connection waits for: jobs, and commands that have no process yet
        self.groups: set[int] = set()  #: commands that nobody will ask for again: they end with the connection

    def serve(self) -> None:
        """Answer until the connection ends, and then until the last job has."""
        threading.Thread(target=self.knock, daemon=True).start()
        while True:
            frame = self.receive()
            if frame is None or frame[0].get("do") == "bye":
                break
            header, payload = frame
            if header["do"] == "ping":
                self.send({"id": header["id"], "ok": None})
            elif header["do"] in ("data", "end"):
                waiting = self.open.get(header["id"])
                if waiting is not None:
                    waiting.put(payload if header["do"] == "data" else None)
            elif header["do"] == "forget":
                self.answer(header, payload)  # in its turn, as what comes behind it may be the good-bye
            else:
                self.open[header["id"]] = queue.Queue()
                if header["do"] == "run":
                    self.busy.add(header["id"])  # here, as the connection may end before the thread has begun
                threading.Thread(target=self.answer, args=(header, payload), daemon=True).start()
        self.lost.set()
        for waiting in list(self.open.values()):
            waiting.put(None)
        while True:
            waiting_for = bool(self.busy)
            for pid in list(self.groups):
                commands.kill_group(pid)
            if not waiting_for:
                break
            time.sleep(PATIENCE)

    def knock(self) -> None:
        """Say something that nobody waits for. Where the other side was cut off, its end of the connection never came here."""
        while not self.lost.wait(KNOCK):
            if time.monotonic() - self.heard >= KNOCK:
                self.send({"id": 0})

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next frame; None at the end."""
        head = self.exactly(HEAD.size)
        if head is None:
            return None
        size, more = HEAD.unpack(head)
        header, payload = self.exactly(size), self.exactly(more)
        self.heard = time.monotonic()
        return None if header is None or payload is None else (json.loads(header), payload)

    def exactly(self, size: int) -> bytes | None:
        found = self.reader.read(size)
        return found if len(found) == size else None

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send one frame. Nobody to send to is no error: what is done is done."""
        body = json.dumps(header).encode()
        with self.turn:
            try:
                self.writer.write(HEAD.pack(len(body), len(payload)) + body)
                self.writer.write(payload)  # by itself: it may be large, and a copy takes as much again
                self.writer.flush()
            except (OSError, ValueError):
                self.lost.set()

    def answer(self, header: dict[str, Any], payload: bytes) -> None:
        """Do what one request asks for."""
        number = header["id"]
        try:
            body, content = VERBS[header["do"]](self, header, payload)
            self.send({"id": number, "ok": body}, content)
        except Answered as exc:
            self.send({"id": number, "error": exc.body})
        except placing.Damaged as exc:
            self.send({"id": number, "error": {"kind": "damaged", "text": str(exc)}})
        except OSError as exc:
            self.send({"id": number, "error": {"kind": "os", **placing.details(exc)}})
        except Exception as exc:  # noqa: BLE001 - a thread's boundary: whoever asked is told, and the others go on
            self.send({"id": number, "error": {"kind": "bug", "text": f"{type(exc).__name__}: {exc}"}})
        finally:
            self.open.pop(number, None)
            self.busy.discard(number)


# -- verbs: (hand, header, payload) -> (answer, payload) --------------------------------------------------------------------


def hello(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """Who and where this is."""
    return {
        "python": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "uid": os.getuid(),
        "home": os.path.expanduser("~"),
        "hostname": os.uname().nodename,
        "boot_id": boot_id(),
        "systemd": units.manager(),
        "path": os.environ.get("PATH", os.defpath),
    }, b""


def run(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """Run a command; with a `job`, once."""
    folder = header.get("job")
    if folder is None:
        return end_of(*execute(hand, header, payload))
    if not begin(folder):
        hand.busy.discard(header["id"])  # whoever began it sees to it
        return follow(folder, time.monotonic() + header["timeout"])
    try:
        body, content = end_of(*execute(hand, header, payload, folder))
        finish(folder, body, content)  # before it is answered: whether the answer comes through is not known
        return body, content
    except Answered as exc:
        finish(folder, exc.body, b"")
        raise
    except OSError:
        placing.remove_tree(folder)  # it was never begun
        raise


def execute(hand: Hand, header: dict[str, Any], payload: bytes, folder: str | None = None) -> tuple[int, bytes, bytes]:
    """Run a command to its end."""
    number = header["id"]
    if folder is None and hand.lost.is_set():
        raise Answered("cut")

    def say(line: str) -> None:
        if not hand.lost.is_set():
            hand.send({"id": number, "line": line})

    groups: list[int] = []

    def started(pid: int) -> None:
        if folder is None:
            groups.append(pid)
            hand.groups.add(pid)
            hand.busy.discard(number)  # from now on it is killed when the connection ends
        else:
            who = {"pid": pid, "start": start_of(pid), "boot_id": boot_id()}
            write(os.path.join(folder, "process.json"), json.dumps(who).encode())

    try:
        return commands.run(
            header["argv"],
            stdin=payload,
            env=header["env"],
            timeout=header["timeout"],
            on_line=say if header.get("stream") else None,
            started=started,
        )
    except commands.Expired:
        raise Answered("expired") from None
    finally:
        hand.groups.difference_update(groups)


def end_of(code: int, out: bytes, errors: bytes) -> tuple[dict[str, Any], bytes]:
    return {"code": code, "out": len(out)}, out + errors


def begin(folder: str) -> bool:
    """Whether this job is ours to begin: the name is taken once."""
    base = os.path.dirname(folder)
    while True:
        placing.make_folders(base)
        try:
            clear_jobs(base)
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return False
        except FileNotFoundError:
            continue  # the last other job was just forgotten, and the folder with it
        return True


def clear_jobs(base: str) -> None:
    """Remove what is known of jobs that nobody asked for any more."""
    for name, _, _ in placing.names_in(base):
        path = os.path.join(base, name)
        try:
            if time.time() - os.stat(path).st_mtime > STALE and not is_same(read_json(f"{path}/process.json")):
                placing.remove_tree(path)
        except FileNotFoundError:
            continue


def finish(folder: str, body: dict[str, Any], content: bytes) -> None:
    """Note how a job ended. A disk that is full by then takes the note, not the job: it counts as interrupted."""
    try:
        write(os.path.join(folder, "end"), json.dumps(body).encode() + b"\n", content)
    except OSError:
        pass


def follow(folder: str, deadline: float) -> tuple[Any, bytes]:
    """How a job ends that was begun before."""
    gone_at = None
    while time.monotonic() < deadline:
        try:
            with open(os.path.join(folder, "end"), "rb") as file:
                body = json.loads(file.readline())
                if "kind" in body:
                    raise Answered(**body)
                return body, file.read()
        except FileNotFoundError:
            pass
        who = read_json(os.path.join(folder, "process.json"))
        if who is not None and who["boot_id"] != boot_id():
            raise Answered("interrupted", text="the machine was restarted")
        if is_same(who):
            gone_at = None
        elif gone_at is None:
            gone_at = time.monotonic()  # between its end and the note of it lies a moment, as before its beginning
        elif time.monotonic() - gone_at > NOTED:
            raise Answered("interrupted", text="whoever watched it was killed")
        time.sleep(PATIENCE)
    raise Answered("expired")


def forget(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """The ends of these jobs are known: nobody will ask again."""
    for folder in header["jobs"]:
        placing.remove_tree(folder)
    for base in {os.path.dirname(f) for f in header["jobs"]}:
        try:
            os.rmdir(base)
        except OSError:
            pass  # other jobs are there
    return None, b""


def write(path: str, *parts: bytes) -> None:
    """A small file, whole. Not flushed: what it tells is of no use after a power cut."""
    with open(f"{path}.tmp", "wb") as file:
        file.writelines(parts)
    os.replace(f"{path}.tmp", path)


def write_file(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    placing.write_file(header["path"], payload, header["mode"], lambda: None)
    return None, b""


def write_first(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    return placing.write_first(header["path"], payload, header["missing"]), b""


def read_file(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """At most `limit` bytes from `offset`; fewer only at the end."""
    with open(header["path"], "rb") as file:
        file.seek(header["offset"])
        return None, file.read(header["limit"])


def names(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    return placing.names_in(header["path"]), b""


def remove(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    placing.remove_tree(header["path"])
    for path in header["empty"]:
        placing.remove_empty(path)
    return None, b""


def edit(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    placing.edit_lines(header["path"], header["ending"], header["line"])
    return None, b""


def remove_empty(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    return placing.remove_empty(header["path"]), b""


def digest(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """The digest of a folder that is there, or None."""
    return placing.seal(placing.files_below(header["folder"])) if os.path.isdir(header["folder"]) else None, b""


def put(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """Take an archive in, from where an earlier try was cut off, and unpack it as a folder."""
    target = header["folder"]
    above = os.path.dirname(target)
    partial = os.path.join(above, f"{placing.PART}upload-{header['digest'][:32]}")
    if os.path.isdir(target):
        unlink(partial)  # whoever put it there may have been cut off before
        return {"there": True}, b""
    placing.make_folders(above)
    clear_uploads(above)
    with open_locked(partial) as file:
        if os.path.isdir(target):
            unlink(partial)
            return {"there": True}, b""
        at = file.seek(0, os.SEEK_END)
        if at > header["size"]:
            at = file.truncate(0)
        try:
            check_space(above, header["size"] - at)
            hand.send({"id": header["id"], "at": at})
            with open(partial, "rb") as earlier:
                arriving = Arriving(hand, header, earlier, file)
                placing.put_tree(target, arriving.unpack, header["digest"], lambda: None)
        except placing.Damaged:
            unlink(partial)
            if at:  # of another archive of the same tree, or not written before the power was cut: it has to come again, whole
                raise Answered("cut") from None
            raise
        except OSError:
            unlink(partial)
            raise
        unlink(partial)
    return {"there": False}, b""


def open_locked(path: str) -> Any:
    """A file to append to, ours alone: two that bring the same take turns."""
    while True:
        file = open(path, "ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            found, held = os.stat(path), os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return file
        except FileNotFoundError:
            pass  # whoever had it before is done with it
        file.close()


class Arriving:
    """An upload as a stream: what earlier tries left of it, then what comes now. That is kept in `file` before it is handed on."""

    def __init__(self, hand: Hand, header: dict[str, Any], earlier: Any, file: Any) -> None:
        self.hand, self.number, self.earlier, self.file = hand, header["id"], earlier, file
        self.left = header["size"] - file.tell()

    def unpack(self, folder: str) -> Mapping[str, str]:
        """Unpack it while it comes. The sender is told how much of it was taken.

        Raises:
            Answered: whoever sends it was gone before all of it was there; what came is kept for the next try.
            Damaged: it is no archive.
        """
        if TYPE_CHECKING or __package__:
            from falplan.runner import archives
        else:
            import archives
        try:
            hashes = archives.unpack(self, folder)
        except placing.Damaged:
            self.take_rest()
            raise
        self.take_rest()  # what stands behind the archive's end
        return hashes

    def take_rest(self) -> None:
        """Whoever sends waits until all was taken."""
        while self.read(PIECE):
            pass

    def read(self, size: int) -> bytes:
        """The next bytes, however many; none at the end."""
        piece: bytes = self.earlier.read(size) if self.earlier is not None else b""
        if not piece:
            self.earlier = None
            piece = self.take() if self.left else b""
        return piece

    def take(self) -> bytes:
        """What comes next, written to the file."""
        try:
            piece = self.hand.open[self.number].get(timeout=QUIET)
        except queue.Empty:
            piece = None  # the file is given back: the same one may be waiting for it, by another connection
        if piece is None:
            raise Answered("cut")
        self.file.write(piece)
        self.left -= len(piece)
        self.hand.send({"id": self.number, "taken": len(piece)})
        return piece


def check_space(folder: str, size: int) -> None:
    """Refuse before the disk is full rather than after."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def clear_uploads(folder: str) -> None:
    """Remove unfinished uploads that nobody will go on with."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if name.startswith(f"{placing.PART}upload-") and time.time() - os.stat(path).st_mtime > STALE:
                unlink(path)
        except FileNotFoundError:
            continue  # somebody else's, which just came to its end


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def survey(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """What the machine has."""
    return inventory.detect(header["folder"]), b""


def examine(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """What can be found out quickly of what can keep it from running apps."""
    if TYPE_CHECKING or __package__:
        from falplan.runner import facts
    else:
        import facts
    return facts.examine(header["folder"], versions=False), b""


def ask(hand: Hand, header: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
    """What the agent answers: for requests that start no process, and that may be cut off anywhere and asked again."""
    if TYPE_CHECKING or __package__:
        from falplan.runner import agent
    else:
        import agent
    return agent.answer_to(header["request"]), b""


VERBS: dict[str, Callable[[Hand, dict[str, Any], bytes], tuple[Any, bytes]]] = {
    "hello": hello,
    "run": run,
    "forget": forget,
    "write": write_file,
    "write_first": write_first,
    "read": read_file,
    "list": names,
    "remove": remove,
    "remove_empty": remove_empty,
    "edit": edit,
    "digest": digest,
    "put": put,
    "survey": survey,
    "examine": examine,
    "ask": ask,
}


ENDINGS: list[Callable[[], object]] = []
"""What is done before this process ends, for those who have added verbs of their own."""


def main() -> None:
    """Serve the connection on standard input and output."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    writer = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # nothing but frames goes there: what a library prints would damage them
    writer.write(READY)
    writer.flush()
    os.dup2(null, 2)
    Hand(sys.stdin.buffer, writer).serve()
    for end in ENDINGS:
        end()
    os._exit(0)  # threads of requests whose asker is gone do not count
