"""A control plane that answers what it is told to, over real HTTPS. For what a real one does not do on request."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from falplan import __version__, clock
from falplan.stores.certificates import ensure_certificates
from tests.core.builders import LINEAGE

Answer = tuple[int, bytes]
EMPTY: dict[str, Any] = {"apps": [], "builds": [], "secrets": [], "runners": [], "machines": [], "orphans": []}


def ok(body: Any) -> Answer:
    return 200, json.dumps(body).encode()


def status(**more: Any) -> Answer:
    told = {"id": "cp-1", "lineage": LINEAGE, "epoch": 1, "version": __version__, "api": [1, 1], "rolled_back": False}
    return ok(told | more)


@dataclass
class Plane:
    """`answer` gets the method, the path below /admin/v1 without its query, and the body; `asked` is what came, in order."""

    url: str
    ca: Path
    answer: Callable[[str, str, bytes], Answer]
    asked: list[str] = field(default_factory=list)


@contextmanager
def fake_plane(folder: Path, answer: Callable[[str, str, bytes], Answer]) -> Iterator[Plane]:
    """One that listens on a free port. Its certificate's CA is in `folder`."""
    certificates = ensure_certificates(folder, now=clock.now(), host_names=["localhost"])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.removeprefix("/admin/v1").partition("?")[0]
            plane.asked.append(f"{self.command} {path}")
            code, content = plane.answer(self.command, path, body)
            self.send_response(code)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *args: object) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "gateway.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    plane = Plane(f"https://localhost:{server.server_port}", certificates.ca, answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield plane
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
