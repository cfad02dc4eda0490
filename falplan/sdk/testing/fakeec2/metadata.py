"""An instance's own metadata, as it reads them at 169.254.169.254: IMDSv2 alone, each question with a token.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from falplan.sdk.testing.fakeec2.account import SPOT_NOTICE
from falplan.sdk.testing.fakeec2.things import Instance

ADDRESS = ("169.254.169.254", 80)
TOKENS = "X-aws-ec2-metadata-token"
LONGEST = 21_600
"""Seconds that a token lives at most."""


@dataclass(slots=True)
class Metadata:
    """What one instance is told. `when` turns a time of the account into one of the instance's clock, in seconds since 1970."""

    instance: Instance
    when: Callable[[float], float] = float
    tokens: set[str] = field(default_factory=set)

    def of(self, path: str) -> str | None:
        """What stands under a path below /latest; None: there is nothing."""
        known = {
            "/meta-data/instance-id": self.instance.id,
            "/meta-data/instance-type": self.instance.kind.name,
            "/meta-data/spot/instance-action": self._action(),
        }
        return known.get(path) or None

    def _action(self) -> str:
        if self.instance.noticed_at is None:
            return ""
        ends = datetime.fromtimestamp(self.when(self.instance.noticed_at + SPOT_NOTICE), UTC)
        return json.dumps({"action": "terminate", "time": f"{ends:%Y-%m-%dT%H:%M:%SZ}"})


@contextlib.contextmanager
def metadata_at(listening: socket.socket, metadata: Metadata) -> Iterator[list[str]]:
    """Answer at a socket that is bound, until the end. Yields the paths that were asked for, as they come."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            seconds = self.headers.get(f"{TOKENS}-ttl-seconds", "")
            if self.path != "/latest/api/token" or "X-Forwarded-For" in self.headers:
                self._answer(403, "")
            elif not seconds.isdigit() or not 1 <= int(seconds) <= LONGEST:
                self._answer(400, "")
            else:
                token = secrets.token_urlsafe(16)
                metadata.tokens.add(token)
                self._answer(200, token)

        def do_GET(self) -> None:
            asked.append(self.path)
            if self.headers.get(TOKENS) not in metadata.tokens:
                self._answer(401, "")
                return
            found = metadata.of(self.path.removeprefix("/latest"))
            self._answer(404 if found is None else 200, found or "")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name there

    server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_activate()
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
