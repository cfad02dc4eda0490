"""Serves one unmodified fal.App on a unix socket, in the app's own environment. Knows nothing of queues, callers or machines.

`python fal_server.py path.py::Class` with the app's files as the working folder and FALPLAN_SOCKET as the socket's path. Lines that
the app prints while it serves a request are marked `\\x1f<request id>\\x1f`, which the supervisor turns into the line's request id.
Exits 0 after SIGTERM and teardown; 1 with one line of reason and the traceback if the app can't be loaded or set up.
"""

from __future__ import annotations

import contextvars
import importlib.util
import io
import os
import signal
import sys
import threading
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

ID_HEADER = b"x-fal-request-id"
PART_CHARACTERS = 8192


class CannotServe(Exception):
    """The app can't be served; the text is one line for people."""


# -- log lines ------------------------------------------------------------------------------------------------------------


class Request:
    """A request being served: its id, and the beginnings of lines that it has printed, by stream."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.parts: dict[str, str] = {}


REQUEST: contextvars.ContextVar[Request | None] = contextvars.ContextVar("falplan_request", default=None)


class Marked(io.TextIOBase):
    """A text stream that puts the request's mark before each line printed while it is served. Marked lines are written whole."""

    def __init__(self, name: str, stream: io.TextIOWrapper) -> None:
        self._name, self._stream, self._mutex = name, stream, threading.Lock()

    def write(self, text: str) -> int:
        """Write text; threads and tasks mark with the request that their context belongs to."""
        request = REQUEST.get()
        if request is None:
            return self._stream.write(text)
        with self._mutex:
            whole, newline, part = (request.parts.get(self._name, "") + text).rpartition("\n")
            if len(part) > PART_CHARACTERS:
                whole, newline, part = whole + newline + part, "\n", ""
            request.parts[self._name] = part
            if newline:
                self._write_lines(request.id, whole)
        return len(text)

    def finish(self, request: Request) -> None:
        """The request has ended: what it began is a line."""
        with self._mutex:
            part = request.parts.pop(self._name, "")
            if part:
                self._write_lines(request.id, part)

    def _write_lines(self, request_id: str, text: str) -> None:
        self._stream.write("".join(f"\x1f{request_id}\x1f{line}\n" for line in text.split("\n")))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute where the class has a descriptor
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # the same
        return self._stream.errors

    def __getattr__(self, name: str) -> Any:
        """What else a text file has: `buffer`, `name`, `reconfigure`. Bytes written below are not marked."""
        return getattr(self._stream, name)


def mark_output() -> None:
    """From here on, what is printed carries the request's mark. Before any logger takes hold of the streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
        setattr(sys, name, Marked(name, stream))


class Marking:
    """The ASGI app, with each request in its context: tasks inherit it, and the threads of sync endpoints copy it."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.setup_failure = ""  #: the last line of the traceback

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request, or the app's whole life."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._listening(send))
            return
        request_id = next((clean(v) for k, v in scope["headers"] if k == ID_HEADER), "")
        request = Request(request_id) if request_id else None
        REQUEST.set(request)
        try:
            await self.app(scope, receive, send)
        finally:
            if request is not None:
                for stream in (sys.stdout, sys.stderr):
                    if isinstance(stream, Marked):
                        stream.finish(request)

    def _listening(
        self, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> Callable[[dict[str, Any]], Awaitable[None]]:
        async def listening(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.failed":
                self.setup_failure = str(message.get("message", "")).strip().rpartition("\n")[2] or "setup() failed"
            await send(message)

        return listening


def clean(value: bytes) -> str:
    """A request id as it may stand in a log line."""
    return "".join(c for c in value.decode("latin-1") if c.isprintable())[:128]


# -- the app --------------------------------------------------------------------------------------------------------------


def load(entry: str) -> type:
    """The app's class, imported from its file; modules beside the file and at the files' root can be imported.

    Raises:
        CannotServe: there is no such file, module, or class.
    """
    path, _, name = entry.partition("::")
    full = os.path.abspath(path)
    if not os.path.isfile(full):
        raise CannotServe(f"{path} is not among the app's files")
    sys.path[0:1] = list(dict.fromkeys([os.path.dirname(full), os.getcwd()]))  # in place of this script's own folder
    module_name = os.path.splitext(os.path.basename(full))[0]
    if module_name in sys.modules:
        module_name = f"falplan_app_{module_name}"
    spec = importlib.util.spec_from_file_location(module_name, full)
    if spec is None or spec.loader is None:
        raise CannotServe(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # pickling, dataclasses and type hints look a module up by its name
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as exc:
        hint = "add it to `requirements`, or to the app's files"
        raise CannotServe(f"{path} can't be imported: there is no module {exc.name!r}; {hint}") from exc
    except BaseException as exc:
        raise CannotServe(f"{path} can't be imported: {type(exc).__name__}: {exc}") from exc
    return find(vars(module), path, name)


def find(names: dict[str, Any], path: str, wanted: str) -> type:
    """The fal.App class among a module's names."""
    import fal.utils

    if wanted and wanted not in names:
        raise CannotServe(f"there is no class {wanted} in {path}")
    try:
        target = fal.utils._find_target(names, wanted or None)[0]
    except Exception as exc:
        raise CannotServe(f"{path}: {exc}") from exc
    if not isinstance(target, type):
        raise CannotServe(f"{path}::{wanted} is not a subclass of fal.App")
    return target


def make(target: type) -> tuple[Any, Any]:
    """(the app, its ASGI app)."""
    import fal.ref

    try:
        app = target()
        fal.ref.set_current_app(app)
        return app, app._build_app()
    except Exception as exc:
        raise CannotServe(f"{target.__name__} can't be made: {type(exc).__name__}: {exc}") from exc


def serve(entry: str, address: str) -> int:
    """Set the app up, serve it until SIGTERM, tear it down. Returns the exit status."""
    os.environ["IS_ISOLATE_AGENT"] = "1"  # fal.App refuses to be made outside of fal without it
    os.environ.setdefault("FAL_RUNNER_STATE", "SETUP")
    try:
        import uvicorn
        from fal.api.api import FalServer
    except ImportError as exc:
        raise CannotServe(f"this environment can't serve a fal.App: {exc}") from exc
    app, asgi = make(load(entry))
    marking = Marking(asgi)
    handed = os.environ.pop("FALPLAN_SOCKET_FD", None)  # bound by the supervisor, where the app may not
    where: dict[str, Any] = {"fd": int(handed)} if handed else {"uds": address}
    config = uvicorn.Config(
        marking, **where, lifespan="on", timeout_keep_alive=300, access_log=False, log_level="warning"
    )
    server = FalServer(config)
    server.set_handle_exit(app.handle_exit)

    def once_more(number: int, frame: object) -> None:
        # uvicorn raises the signal again once it has shut down; before it serves, nothing has to be torn down.
        if not server.should_exit:
            raise SystemExit(0)

    signal.signal(signal.SIGTERM, once_more)
    try:
        server.run()
    except SystemExit:
        if not marking.setup_failure:
            raise
    if marking.setup_failure:
        raise CannotServe(f"setup() failed: {marking.setup_failure}")
    return 0


def main() -> int:
    """Serve what the command line names."""
    mark_output()
    try:
        return serve(sys.argv[1], os.environ["FALPLAN_SOCKET"])
    except CannotServe as exc:
        if exc.__cause__:
            traceback.print_exception(type(exc.__cause__), exc.__cause__, exc.__cause__.__traceback__)
        print(f"falplan: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
