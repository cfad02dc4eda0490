"""The command line's way to a control plane: HTTPS with its own CA, JSON in and out. Knows no plans."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import urllib3

from falplan import clock
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.operations import OperationKind, OperationStatus, name_of_call
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp


class Unreachable(FalplanError):
    """The control plane did not answer. What became of a request is unknown."""


class OperationFailed(FalplanError):
    """The control plane carried the operation out and it failed. The answer is final."""

    def __init__(self, summary: str, detail: str, exit_code: ExitCode) -> None:
        super().__init__(summary, detail)
        self.exit_code = exit_code


class Answered(FalplanError):
    """The control plane refused the request."""

    def __init__(self, status: int, summary: str, detail: str) -> None:
        super().__init__(summary, detail)
        self.status = status

    @property
    def is_final(self) -> bool:
        """Whether it says what became of the request: not if the control plane is broken, nor if the key is what it refuses.

        An operation that was asked for before, under the same id, may be going on behind a key that is no good any more.
        """
        return self.status < 500 and self.status not in KEY_REFUSED


KEY_REFUSED = (401, 403)
"""Answers to a key that was revoked, has expired, or is not an admin's."""
NEW_KEY = (
    "It was revoked, has expired, or is no admin's. Get another one (`falplan keys create --scope ADMIN` where one works), keep it with "
    "`falplan login` or set FALPLAN_KEY, then try again: what was begun is asked for again, under the same id."
)


class Interrupted(FalplanError):
    """Somebody pressed Ctrl-C after the control plane may have been asked."""

    exit_code = ExitCode.INTERRUPTED


JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class AdminClient:
    """Talks to one control plane. `url` is `https://127.0.0.1:PORT`; `key` an admin key, never printed.

    `through` is a unix socket here that leads there; empty if the URL does.
    """

    url: str
    key: str
    pool: urllib3.PoolManager
    through: str = ""

    def __repr__(self) -> str:
        return f"AdminClient({self.url!r})"

    def listens(self) -> bool:
        """Whether anything takes connections there. A hung control plane does, one that is starting or ending does not."""
        if self.through:
            return self._greets()  # the way takes connections for whoever is, or is not, at its end
        at = urllib3.util.parse_url(self.url)
        try:
            socket.create_connection(((at.host or "").strip("[]"), at.port or 443), timeout=5).close()
        except OSError:
            return False
        return True

    def _greets(self) -> bool:
        try:
            self.pool.request("GET", f"{self.url}/health", timeout=5, retries=False)
        except urllib3.exceptions.TimeoutError:
            return True  # where nobody listens, the way is closed at once
        except urllib3.exceptions.HTTPError:
            return False
        return True

    def get(self, path: str, *, timeout: float = 30, needs: Collection[str] = ()) -> Any:
        """The JSON of a GET below /admin/v1; with `needs`, an object that has these keys.

        Raises:
            Unreachable: also if something else answered, as a proxy does in the place of what is behind it. Answered.
        """
        answer = self._json("GET", path, timeout=timeout)
        if needs and not (isinstance(answer, dict) and answer.keys() >= set(needs)):
            raise Unreachable("What answers is no control plane", f"what answers at {self.url} is no control plane")
        return answer

    def send(
        self, method: str, path: str, body: JsonObject | None = None, *, operation: str, timeout: float = 30
    ) -> Any:
        """A mutating call. Sent again with the same `operation`, it has no second effect, and the first outcome comes back.

        Raises:
            Unreachable: whether it was done is unknown. Answered: it was refused, and changed nothing.
        """
        name = name_of_call(method, _parts(path))
        return self._change(
            name, method, f"{path}?operation={operation}", json.dumps(body or {}).encode(), JSON, timeout=timeout
        )

    def ask(self, path: str, body: JsonObject) -> Any:
        """A question that is too long for a GET. It changes nothing."""
        return self._json("POST", path, json.dumps(body).encode(), JSON)

    def send_again(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        operation: str,
        within: float = 5,
        timeout: float = 30,
    ) -> Any:
        """The same, and again for `within` seconds while nobody answers: a control plane that was killed may come back.

        Raises:
            Unreachable: whether it was done is unknown. Answered.
        """
        give_up = clock.monotonic() + within
        while True:
            try:
                return self.send(method, path, body, operation=operation, timeout=timeout)
            except Unreachable:
                if clock.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def upload(self, path: str, content: IO[bytes] | bytes) -> Any:
        """PUT what a file holds, or bytes. The path says which operation it is: by `?operation=`, or by the content's digest."""
        headers = {"content-type": "application/octet-stream"}
        return self._change(name_of_call("PUT", _parts(path)), "PUT", path, content, headers, timeout=600)

    def perform(
        self,
        operation: str,
        kind: OperationKind,
        body: JsonObject,
        *,
        progress: Callable[[str], None] = lambda line: None,
    ) -> JsonObject:
        """Ask for an operation and wait for its end. Returns its outputs.

        Asking again with the same id waits for the first one. Progress lines come as they are made.

        Raises:
            OperationFailed: final. Unreachable: unknown; ask again. Interrupted: it goes on.
        """
        wanted = json.dumps({"operation": operation, "kind": kind.value, "body": body}).encode()
        try:
            answer = self._change(kind.value, "POST", "/operations", wanted, JSON)
        except Answered as exc:
            if not exc.is_final:
                raise  # not known whether it was recorded: asked again under the same id
            raise OperationFailed(exc.summary, exc.detail, ExitCode.FAILED) from exc
        seen = 0
        while answer["status"] == OperationStatus.RUNNING:
            with _told_when_interrupted():
                answer = self.get(f"/operations/{operation}?progress={seen}&wait=10", timeout=40)
            for line in answer["progress"]:
                progress(line)
            seen += len(answer["progress"])
        outcome = cast("JsonObject", answer["outcome"])
        if answer["status"] == OperationStatus.FAILED:
            code = ExitCode(int(cast("int", outcome.get("code", 1))))
            raise OperationFailed(str(outcome["summary"]), str(outcome.get("detail", "")), code)
        return outcome

    def stream(self, path: str) -> Iterator[bytes]:
        """Chunks of an answer that goes on, such as followed logs."""
        response = self._request("GET", path, timeout=urllib3.Timeout(connect=5, read=None), preload=False)
        try:
            yield from response.stream(65536, decode_content=False)
        finally:
            response.close()

    def download(self, path: str, target: IO[bytes]) -> None:
        """Write the body of a GET to an open file, in pieces.

        Raises:
            Unreachable: it did not arrive whole. Answered: it was refused.
        """
        response = self._request("GET", path, timeout=urllib3.Timeout(connect=5, read=600), preload=False)
        try:
            if response.status >= 400:
                raise _answered(response.status, response.read())
            for piece in response.stream(1 << 20, decode_content=False):
                target.write(piece)
        except urllib3.exceptions.HTTPError as exc:
            raise Unreachable("The control plane's answer was cut short", f"{self.url}: {_short(exc)}") from exc
        finally:
            response.close()

    def _change(
        self,
        name: str,
        method: str,
        path: str,
        content: bytes | IO[bytes],
        headers: dict[str, str],
        *,
        timeout: float = 30,
    ) -> Any:
        fp(f"call.{name}.before_send")
        with _told_when_interrupted():
            answer = self._json(method, path, content, headers, timeout=timeout)
        fp(f"call.{name}.after_answer")
        return answer

    def _json(
        self,
        method: str,
        path: str,
        content: bytes | IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout: float = 30,
    ) -> Any:
        response = self._request(
            method, path, content, headers, timeout=urllib3.Timeout(connect=5, read=timeout), preload=True
        )
        if response.status >= 400:
            raise _answered(response.status, response.data)
        return _parsed(response.data)

    def _request(
        self,
        method: str,
        path: str,
        content: bytes | IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout: urllib3.Timeout,
        preload: bool,
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self.pool.request(
                method,
                f"{self.url}/admin/v1{path}",
                body=content,
                headers={"authorization": f"Key {self.key}", **(headers or {})},
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=preload,
            )
        except urllib3.exceptions.HTTPError as exc:
            raise Unreachable("The control plane does not answer", f"{self.url}: {_short(exc)}") from exc


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        detail = "The control plane was asked already and may do it all the same: look before you ask again."
        raise Interrupted("Interrupted", detail) from None


def _parts(path: str) -> list[str]:
    return path.partition("?")[0].strip("/").split("/")


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _answered(status: int, content: bytes) -> Answered:
    if status in KEY_REFUSED:
        return Answered(status, "The control plane refuses the key", NEW_KEY)
    body = _parsed(content)
    found = body if isinstance(body, dict) else {}
    summary = str(found.get("summary") or found.get("detail") or f"The control plane answered {status}")
    return Answered(status, summary, str(found.get("detail", "")) if "summary" in found else "")


def _short(error: Exception) -> str:
    cause = error.args[-1] if error.args else error
    return str(cause).split(">: ")[-1]


def connect(
    url: str, key: str, ca: Path | None = None, *, ca_data: str = "", name: str = "", through: str = ""
) -> AdminClient:
    """A client that trusts that CA alone: a file's, or the PEM text `ca_data`; without either, the public ones.

    `name` is the one that the certificate must carry, if it is not the URL's. `through` is a unix socket here that leads to the URL.
    """
    pool = urllib3.PoolManager(
        cert_reqs="CERT_REQUIRED",
        maxsize=16,
        ca_certs=str(ca) if ca else None if ca_data else _public_roots(),
        ca_cert_data=ca_data if ca_data and not ca else None,
        assert_hostname=name or None,
        server_hostname=name or None,
    )
    if through:
        pool.pool_classes_by_scheme = {**pool.pool_classes_by_scheme, "https": _pool_through(through)}
    return AdminClient(url, key, pool, through)


def _pool_through(path: str) -> type[urllib3.HTTPSConnectionPool]:
    """Connections to one unix socket, whatever their URL says; TLS and its names are the URL's."""

    class Connection(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = socket.socket(socket.AF_UNIX)
            try:
                made.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
                made.connect(path)
            except OSError as exc:
                made.close()
                raise urllib3.exceptions.NewConnectionError(self, f"The way there is closed: {exc}") from exc
            return made

    class Pool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


def _public_roots() -> str:
    import certifi

    return certifi.where()
