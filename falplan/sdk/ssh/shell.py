"""A machine reached by SSH as a shell: every method is one request to falplan's hand there."""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from falplan.core.errors import FalplanError
from falplan.core.hostfacts import Facts, facts_of
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import TimedOut, Unreachable
from falplan.sdk.ssh.connect import NoAnswer, connect
from falplan.sdk.ssh.forward import Forwards
from falplan.sdk.ssh.link import EXAMINED, HandFailed, Link
from falplan.sdk.ssh.target import Credentials, Target
from falplan.sdk.trees import TreeFile, damaged, tree_digest, write_archive
from falplan.sdk.values import Command, Entry, Output

PIECE = 1 << 18
AHEAD = 32
"""Pieces that are sent before the first of them is known to be written."""
READ = 8 << 20
STEP = 120.0
"""Seconds for a request that is no command: a disk may be slow."""


@dataclass(slots=True)
class SshShell:
    """A `Shell` by SSH. Connects when it is first needed, and again when the connection was lost; one connection, used by all threads.

    With `jobs`, a folder on the machine, each command is begun once even if the connection breaks while it runs: it is asked for its
    end after that. Without, it is unknown what became of such a command.
    """

    target: Target
    credentials: Credentials = field(default_factory=Credentials)
    jobs: str = ""
    _link: Link | None = None
    _connecting: threading.Lock = field(default_factory=threading.Lock)
    _ended: list[str] = field(default_factory=list)
    _forwards: Forwards | None = None
    _reaching: threading.Lock = field(default_factory=threading.Lock)

    @property
    def python(self) -> str:
        """The interpreter that the hand runs in."""
        return str(self.facts["python"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """{python, version, uid, home, hostname, boot_id, systemd, path} of the machine."""
        return self.link.facts

    @property
    def link(self) -> Link:
        """The hand, connected to if need be."""
        with self._connecting:
            if self._link is None or self._link.lost:
                connection = connect(self.target, self.credentials)
                try:
                    self._link = Link(connection)
                except BaseException:
                    connection.close()
                    raise
            return self._link

    def survey(self, folder: str = "~") -> Mapping[str, Any]:
        """What `falplan.runner.inventory.detect` finds on the machine."""
        return dict(self._ask({"do": "survey", "folder": folder})[0])

    def examine(self, folder: str) -> Facts:
        """What `falplan.runner.facts.examine` finds on the machine, but for other interpreters, and for what is seen from
        outside.

        Raises:
            FalplanError: it can't be looked at.
        """
        found = self._ask({"do": "examine", "folder": folder}, timeout=EXAMINED)[0]
        return facts_of(found, sudo=self.target.sudo)

    def ask_agent(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What falplan's agent answers to a request that may be repeated, without a process of its own. See `falplan.runner.agent`."""
        return dict(self._ask({"do": "ask", "request": request})[0])

    def run(self, command: Command, on_line: Callable[[str], None] | None = None) -> Output:
        """See `Shell.run`."""
        header: dict[str, Any] = {
            "do": "run",
            "argv": list(command.argv),
            "env": dict(command.env),
            "timeout": command.timeout,
            "stream": on_line is not None,
        }
        if self.jobs and not command.repeatable:
            header["job"] = f"{self.jobs}/{os.urandom(8).hex()}"
        try:
            body, content = self._run(header, command, on_line)
        except HandFailed as exc:
            raise _command_error(exc, self.target, command) from None
        finally:
            self._forget_ended()
        return Output(body["code"], content[: body["out"]], content[body["out"] :])

    def _run(
        self, header: dict[str, Any], command: Command, on_line: Callable[[str], None] | None
    ) -> tuple[Any, bytes]:
        def hear(event: Mapping[str, Any]) -> None:
            if on_line is not None and "line" in event:
                on_line(event["line"])

        try:
            try:
                found = self.link.request(header, command.stdin, timeout=command.timeout + STEP, on_event=hear)
            except Unreachable:
                if "job" not in header:
                    raise
                fp("ssh.run.after_lost")
                found = self._follow(header, command.stdin)
        except HandFailed:
            self._ended += [header["job"]] if "job" in header else []
            raise
        self._ended += [header["job"]] if "job" in header else []
        return found

    def _follow(self, header: dict[str, Any], stdin: bytes) -> tuple[Any, bytes]:
        """Ask for a job whose answer was lost: it is begun if it never was, and otherwise waited for."""
        last: Unreachable | None = None
        for _ in range(5):
            try:
                return self.link.request(header, stdin, timeout=header["timeout"] + STEP)
            except Unreachable as exc:
                last = exc
        raise last or AssertionError

    def _forget_ended(self) -> None:
        """Their end is known, and nobody will ask again. Nobody waits for the machine to take that in."""
        link = self._link
        if self._ended and link is not None and not link.lost:
            ended, self._ended = self._ended, []
            try:
                link.send({"do": "forget", "jobs": [*ended], "id": 0})
            except Unreachable:
                self._ended += ended

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """See `Shell.write_file`."""
        self._ask({"do": "write", "path": path, "mode": mode}, content)

    def write_first(self, path: str, content: bytes, missing: Sequence[str]) -> bool:
        """Write a private file into a folder of its own. Whether it did: not if `missing` are not the folders that are missing above.

        Those appear with the file in them or not at all.
        """
        return bool(self._ask({"do": "write_first", "path": path, "missing": list(missing)}, content)[0])

    def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """See `Shell.read_file`."""
        parts: list[bytes] = []
        while limit is None or limit > 0:
            size = READ if limit is None else min(limit, READ)
            _, part = self._ask({"do": "read", "path": path, "offset": offset, "limit": size})
            parts.append(part)
            if len(part) < size:
                break
            offset += size
            limit = None if limit is None else limit - size
        return b"".join(parts)

    def put_archive(self, stream: IO[bytes], folder: str, digest: str) -> None:
        """See `Shell.put_archive`. An upload that was cut off goes on where it was."""
        if not stream.seekable():
            stream = io.BytesIO(stream.read())
        begin = stream.tell()
        size = stream.seek(0, io.SEEK_END) - begin
        header = {"do": "put", "folder": folder, "digest": digest, "size": size}
        for attempt in range(5):
            try:
                self._put(header, stream, begin)
                return
            except Unreachable:
                if attempt == 4:
                    raise
            except HandFailed as exc:
                if exc.kind == "damaged":
                    raise damaged(str(exc.body["text"])) from None
                if exc.kind != "cut" or attempt == 4:  # for long, nothing of it had arrived there
                    raise _error(exc, self.target) from None

    def _put(self, header: Mapping[str, Any], stream: IO[bytes], begin: int) -> None:
        link, number, window = self.link, 0, 0

        def begun(given: int) -> None:
            nonlocal number
            number = given

        def send_more() -> None:
            nonlocal window
            while window > 0:
                piece = stream.read(PIECE)
                if not piece:
                    break
                fp("ssh.put.before_piece")
                link.send({"do": "data", "id": number}, piece)
                window -= 1

        def hear(event: Mapping[str, Any]) -> None:
            nonlocal window
            if "at" in event:
                stream.seek(begin + event["at"])
                window = AHEAD
            elif "taken" in event:
                window += 1
            send_more()

        # The time is of the whole upload: 1 MB/s is slow, and slower than that is as good as none.
        link.request(header, timeout=STEP + int(header["size"]) / 2**18, on_event=hear, begun=begun)

    def put_tree(self, source: Path, folder: str) -> str:
        """See `Shell.put_tree`."""
        digest = tree_digest(source)
        there = self._ask({"do": "digest", "folder": folder})[0]
        if there is not None:
            return str(there)
        archive = io.BytesIO()
        files = sorted(p for p in source.rglob("*") if p.is_file())
        write_archive(
            (TreeFile(p.relative_to(source).as_posix(), p.read_bytes(), bool(p.stat().st_mode & 0o100)) for p in files),
            archive,
        )
        archive.seek(0)
        self.put_archive(archive, folder, digest)
        return digest

    def list(self, path: str) -> builtins.list[Entry]:
        """See `Shell.list`."""
        return [Entry(*found) for found in self._ask({"do": "list", "path": path})[0]]

    def remove(self, path: str, empty: Sequence[str] = ()) -> None:
        """See `Shell.remove`. Folders of `empty` go as well, one after the other, unless something is in them."""
        self._ask({"do": "remove", "path": path, "empty": list(empty)})

    def remove_empty(self, path: str) -> bool:
        """Remove a folder if nothing is in it. Whether it is gone."""
        return bool(self._ask({"do": "remove_empty", "path": path})[0])

    def edit_lines(self, path: str, ending: str, line: str | None) -> None:
        """Put a line at the end of a file in place of all that have this ending; None: only take them away. In turns, and whole."""
        self._ask({"do": "edit", "path": path, "ending": ending, "line": line})

    def reach(self, address: str) -> str:
        """A unix socket of this computer that leads there. See `Shell.reach`; the way is opened again if it was lost."""
        with self._reaching:
            forwards, shown = self._ways()
            return forwards.local(address, shown)

    def port(self, address: str) -> int:
        """A port of this computer's loopback that leads to `HOST:PORT` there, until this shell is closed or the connection lost.

        Raises:
            Unreachable: the machine can't be reached, or forwards nothing.
        """
        with self._reaching:
            forwards, shown = self._ways()
            return forwards.port(address, shown)

    def _ways(self) -> tuple[Forwards, str]:
        connection = self.link.connection
        key = connection.transport.get_remote_server_key()
        shown = f"{key.get_name()} {key.get_base64()}"
        if self._forwards is None:
            self._forwards = Forwards(connection.target, self.credentials, shown)
        return self._forwards, shown

    def forget(self, address: str) -> None:
        """Nobody will connect there any more."""
        if self._forwards is not None:
            self._forwards.forget(address)

    def close(self) -> None:
        """Give up the connection. The next request makes another one."""
        forwards = self._give_up()
        if forwards is not None:
            forwards.close()

    def retire(self) -> None:
        """Give up the connection for good. What goes through the ways that were reached comes to its end."""
        forwards = self._give_up()
        if forwards is not None:
            forwards.retire()

    def _give_up(self) -> Forwards | None:
        with self._connecting:
            link, self._link = self._link, None
        if link is not None:
            link.close()
        with self._reaching:
            forwards, self._forwards = self._forwards, None
        return forwards

    def _ask(self, header: Mapping[str, Any], payload: bytes = b"", *, timeout: float = STEP) -> tuple[Any, bytes]:
        """One request that may be repeated: after a lost connection it is, once."""
        try:
            try:
                return self.link.request(header, payload, timeout=timeout)
            except NoAnswer:
                raise
            except Unreachable:
                return self.link.request(header, payload, timeout=timeout)
        except HandFailed as exc:
            raise _error(exc, self.target) from None


def _error(exc: HandFailed, target: Target) -> Exception:
    """What a hand reports, as those who use a shell know it."""
    body = exc.body
    if exc.kind == "os":
        code = body["errno"] or errno.EIO
        return OSError(code, f"{body['text']} (on {target.name})", body["path"])
    return FalplanError("A request to a machine failed", f"{target.where}: {body.get('text') or exc.kind}")


def _command_error(exc: HandFailed, target: Target, command: Command) -> Exception:
    name = PurePosixPath(command.argv[0]).name
    if exc.kind == "expired":
        return TimedOut("A command took too long", f"{name} was ended after {command.timeout:g} s on {target.name}.")
    if exc.kind == "interrupted":
        detail = f"{name} on {target.where}: {exc.body.get('text')}. Whether it came to its end is unknown."
        return Unreachable("A command was interrupted", detail)
    return _error(exc, target)
