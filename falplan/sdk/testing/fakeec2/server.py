"""The HTTP server: authenticates, throttles, strikes, carries out, and answers. boto3 talks to it by `endpoint_url`."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from falplan.sdk.testing.fakeec2 import consoles, describing, networks, offering, parameters, running, templates
from falplan.sdk.testing.fakeec2.account import Account, Call
from falplan.sdk.testing.fakeec2.faults import THROTTLED, UNKNOWN_KEY, Credential, Fault, Strike
from falplan.sdk.testing.fakeec2.wire import Ec2Error, read, write, write_error

ACTIONS: Mapping[str, Callable[[Account, dict[str, Any]], dict[str, Any]]] = {
    "RunInstances": running.run_instances,
    "DescribeInstances": describing.describe_instances,
    "TerminateInstances": running.terminate_instances,
    "ModifyInstanceAttribute": running.modify_instance_attribute,
    "GetConsoleOutput": consoles.get_console_output,
    "DescribeVolumes": describing.describe_volumes,
    "CreateLaunchTemplate": templates.create_launch_template,
    "CreateLaunchTemplateVersion": templates.create_launch_template_version,
    "ModifyLaunchTemplate": templates.modify_launch_template,
    "DescribeLaunchTemplates": templates.describe_launch_templates,
    "DescribeLaunchTemplateVersions": templates.describe_launch_template_versions,
    "DeleteLaunchTemplate": templates.delete_launch_template,
    "ImportKeyPair": templates.import_key_pair,
    "DescribeKeyPairs": templates.describe_key_pairs,
    "DeleteKeyPair": templates.delete_key_pair,
    "CreateSecurityGroup": networks.create_security_group,
    "DescribeSecurityGroups": networks.describe_security_groups,
    "DeleteSecurityGroup": networks.delete_security_group,
    "AuthorizeSecurityGroupIngress": networks.authorize("in"),
    "AuthorizeSecurityGroupEgress": networks.authorize("out"),
    "RevokeSecurityGroupIngress": networks.revoke("in"),
    "RevokeSecurityGroupEgress": networks.revoke("out"),
    "CreateTags": networks.create_tags,
    "DeleteTags": networks.delete_tags,
    "DescribeTags": networks.describe_tags,
    "DescribeInstanceTypes": offering.describe_instance_types,
    "DescribeInstanceTypeOfferings": offering.describe_instance_type_offerings,
    "DescribeAvailabilityZones": offering.describe_availability_zones,
    "DescribeSubnets": offering.describe_subnets,
    "DescribeVpcs": offering.describe_vpcs,
    "DescribeImages": offering.describe_images,
    "DescribeSpotPriceHistory": offering.describe_spot_price_history,
}
"""What it does. Every other action of EC2 answers `UnsupportedOperation`."""

SSM: Mapping[str, Callable[[Account, dict[str, Any]], dict[str, Any]]] = {"GetParameter": parameters.get_parameter}
"""What it does as SSM."""


@dataclass(slots=True)
class FakeEc2:
    """A server with its account. `hanging` is set by `close`: calls that hang end then."""

    account: Account = field(default_factory=Account)
    url: str = ""
    hanging: threading.Event = field(default_factory=threading.Event)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    @property
    def credentials(self) -> dict[str, str]:
        """Arguments for a client of boto3: the first key of the account."""
        return {
            "aws_access_key_id": next(iter(self.account.credentials)),
            "aws_secret_access_key": "nobody looks at it",
        }

    def answer(self, form: Mapping[str, str], key: str) -> tuple[int, bytes, Strike | None]:
        """Carry out one call of EC2, and say what is to be answered: HTTP status, body, and what strikes the answer."""
        return self._answer(
            form.get("Action", ""), lambda: _read(form.get("Action", ""), form), key, self._act, write_error
        )

    def answer_json(self, action: str, body: bytes, key: str) -> tuple[int, bytes, Strike | None]:
        """The same for SSM, whose calls have a body of JSON."""

        def act(name: str, asked: dict[str, Any], number: str) -> bytes:
            if name not in SSM:
                raise Ec2Error("UnknownOperationException", f"This fake does not know {name}")
            return parameters.write_json(SSM[name](self.account, asked))

        return self._answer(action, lambda: (json.loads(body or b"{}"), None), key, act, parameters.write_json_error)

    def _answer(
        self,
        action: str,
        read_it: Callable[[], tuple[dict[str, Any], Ec2Error | None]],
        key: str,
        act: Callable[[str, dict[str, Any], str], bytes],
        tell: Callable[[Ec2Error, str], bytes],
    ) -> tuple[int, bytes, Strike | None]:
        with self.mutex:
            number = f"fake-{len(self.account.calls):08}"
            asked: dict[str, Any] = {}
            struck = [f for f in self.account.faults if f.strikes(action)]  # each of them counts every call
            fault = struck[0] if struck else None
            done = False
            try:
                asked, wrong = read_it()
                self._admit(action, key)
                if fault is not None and fault.strike in (Strike.DROP, Strike.ERROR):
                    raise fault.error
                if wrong is not None:
                    raise wrong
                body = act(action, asked, number)
                done = True
                if fault is not None and fault.strike is Strike.DONE_ERROR:
                    raise fault.error
                answer, code = (200, body), ""
            except Ec2Error as exc:
                answer, code = (exc.status, tell(exc, number)), exc.code
            self.account.calls.append(Call(self.account.now, action, asked, code, done, key))
            return *answer, fault.strike if fault else None

    def _admit(self, action: str, key: str) -> None:
        credential = self.account.credentials.get(key)
        if credential is None:
            raise UNKNOWN_KEY
        credential.check(action, self.account.now)
        for pattern, bucket in self.account.buckets.items():
            if fnmatchcase(action, pattern) and not bucket.take(self.account.now):
                raise THROTTLED

    def _act(self, action: str, parameters: dict[str, Any], number: str) -> bytes:
        if action not in ACTIONS:
            raise Ec2Error("UnsupportedOperation", f"This fake does not know {action}")
        return write(action, ACTIONS[action](self.account, parameters), number)

    def calls_of(self, *patterns: str) -> list[Call]:
        """The calls so far whose action matches one of these."""
        return [c for c in self.account.calls if any(fnmatchcase(c.action, p) for p in patterns)]


def _read(action: str, form: Mapping[str, str]) -> tuple[dict[str, Any], Ec2Error | None]:
    """The parameters of a call, or what is wrong with them: of which EC2 speaks only to those who may call."""
    try:
        return read(action, form), None
    except Ec2Error as exc:
        return {}, exc


@contextmanager
def fake_ec2(account: Account | None = None) -> Iterator[FakeEc2]:
    """A server on this machine, for as long as the block lasts.

    Give boto3 `endpoint_url=fake.url`, `region_name=fake.account.catalog.region` and `**fake.credentials`.
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
            signed = re.search(r"Credential=([^/]+)/", self.headers.get("authorization", ""))
            key, target = signed.group(1) if signed else "", self.headers.get("x-amz-target", "")
            if target.startswith(parameters.TARGET):
                kind = "application/x-amz-json-1.1"
                status, answer, strike = fake.answer_json(target.removeprefix(parameters.TARGET), body, key)
            else:
                kind = "text/xml;charset=UTF-8"
                form = dict(parse_qsl(body.decode(), keep_blank_values=True))
                status, answer, strike = fake.answer(form, key)
            if strike in (Strike.DROP, Strike.DONE_DROP):
                self._reset()
                return
            if strike is Strike.HANG:
                fake.hanging.wait()
                self._reset()
                return
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _reset(self) -> None:
            """The client gets a reset connection, and no answer."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """What was called stands in the account."""

    return Handler


__all__ = ["ACTIONS", "Account", "Credential", "FakeEc2", "Fault", "Strike", "fake_ec2"]
