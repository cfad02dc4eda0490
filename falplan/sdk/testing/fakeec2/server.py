"""The HTTP server: authenticates, throttles, strikes, carries out, and answers. boto3 talks to it by `endpoint_url`."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account, Call
from falplan.sdk.testing.fakeec2.faults import THROTTLED, UNKNOWN_KEY, Credential, Fault, Strike
from falplan.sdk.testing.fakeec2.protocols import Protocol, Request, protocol, request
from falplan.sdk.testing.fakeec2.services import SERVICES, Service
from falplan.sdk.testing.fakeec2.wire import Ec2Error

NONE = Service("ec2", {})
"""A service that is not there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status, body and its type, and what strikes it."""

    status: int
    body: bytes
    content_type: str
    strike: Strike | None


@dataclass(slots=True)
class FakeEc2:
    """A server with its account. `hanging` is set by `close`: calls that hang end then."""

    account: Account = field(default_factory=Account)
    url: str = ""
    hanging: threading.Event = field(default_factory=threading.Event)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    @property
    def credentials(self) -> dict[str, str]:
        """Arguments for a client of boto3, of whichever service: the first key of the account."""
        key, first = next(iter(self.account.credentials.items()))
        token = {"aws_session_token": first.token} if first.token else {}
        return {"aws_access_key_id": key, "aws_secret_access_key": "nobody looks at it", **token}

    def answer(self, asked: Request) -> Answer:
        """Carry out one call, and say what is to be answered."""
        with self.mutex:
            service, number = SERVICES.get(asked.service, NONE), f"fake-{len(self.account.calls):08}"
            speech = protocol(service.name)
            parameters: dict[str, Any] = {}
            struck = [f for f in self.account.faults if f.strikes(asked.action)]  # each of them counts every call
            fault = struck[0] if struck else None
            done = False
            try:
                parameters, wrong = _read(service, speech, asked)
                self._admit(service, speech, asked)
                if fault is not None and fault.strike in (Strike.DROP, Strike.ERROR):
                    raise fault.error
                if wrong is not None:
                    raise wrong
                body = speech.write(asked.action, self._act(service, asked, parameters), number, service.name)
                done = True
                if fault is not None and fault.strike is Strike.DONE_ERROR:
                    raise fault.error
                status, code = 200, ""
            except Ec2Error as exc:
                status, body, code = exc.status, speech.write_error(exc, number, service.name), exc.code
            call = Call(self.account.now, asked.action, parameters, code, done, asked.key, service.name)
            self.account.calls.append(call)
            return Answer(status, body, speech.content_type, fault.strike if fault else None)

    def _admit(self, service: Service, speech: Protocol, asked: Request) -> None:
        if service.regions and asked.region not in service.regions:
            words = f"Credential should be scoped to a valid region, not '{asked.region}'."
            raise Ec2Error("InvalidSignatureException", words)
        credential = self.account.credentials.get(asked.key)
        if credential is None or (credential.token and asked.token != credential.token):
            raise speech.refused(UNKNOWN_KEY)
        try:
            credential.check(asked.action, self.account.now)
        except Ec2Error as exc:
            raise speech.refused(exc) from exc
        for pattern, bucket in self.account.buckets.items():
            if fnmatchcase(asked.action, pattern) and not bucket.take(self.account.now):
                raise speech.refused(THROTTLED)

    def _act(self, service: Service, asked: Request, parameters: dict[str, Any]) -> dict[str, Any]:
        if asked.action not in service.actions:
            raise Ec2Error("UnsupportedOperation", f"This fake does not know {asked.action}")
        self.account.caller = asked.key
        return service.actions[asked.action](self.account, parameters)

    def calls_of(self, *patterns: str) -> list[Call]:
        """The calls so far whose action matches one of these."""
        return [c for c in self.account.calls if any(fnmatchcase(c.action, p) for p in patterns)]


def _read(service: Service, speech: Protocol, asked: Request) -> tuple[dict[str, Any], Ec2Error | None]:
    """The parameters of a call, or what is wrong with them: of which AWS speaks only to those who may call."""
    try:
        return speech.read(asked.action, asked.body, service.name), None
    except Ec2Error as exc:
        return {}, exc


@contextmanager
def fake_ec2(account: Account | None = None) -> Iterator[FakeEc2]:
    """A server on this machine, for as long as the block lasts.

    Give every client of boto3 `endpoint_url=fake.url`, `region_name=fake.account.catalog.region` and `**fake.credentials`.
    """
    fake = FakeEc2(account or Account())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake ec2", daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.hanging.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(fake: FakeEc2) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer goes out in two parts, and the second would wait for 40 ms

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = fake.answer(request({name.lower(): value for name, value in self.headers.items()}, body))
            if answer.strike in (Strike.DROP, Strike.DONE_DROP):
                self._reset()
                return
            if answer.strike is Strike.HANG:
                fake.hanging.wait()
                self._reset()
                return
            with suppress(ConnectionError):  # whoever asked was killed meanwhile
                self.send_response(answer.status)
                self.send_header("content-type", answer.content_type)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

        def _reset(self) -> None:
            """The client gets a reset connection, and no answer."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """What was called stands in the account."""

    return Handler


__all__ = ["Account", "Credential", "FakeEc2", "Fault", "Strike", "fake_ec2"]
