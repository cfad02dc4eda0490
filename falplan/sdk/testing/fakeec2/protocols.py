"""Which service a request is for, and how it is read, refused and answered there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from falplan.sdk.testing.fakeec2 import jsonwire, wire
from falplan.sdk.testing.fakeec2.checking import check
from falplan.sdk.testing.fakeec2.wire import Ec2Error

SCOPE = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came, unchecked: the service and the region that it is signed for, whose key signed it, and what is in it."""

    action: str
    body: bytes
    service: str = "ec2"
    region: str = ""
    key: str = ""
    token: str = ""


def request(headers: Mapping[str, str], body: bytes) -> Request:
    """A request by its headers. `headers` are found in lower case. One that nobody signed is for EC2."""
    signed = SCOPE.search(headers.get("authorization", ""))
    key, region, service = signed.groups() if signed else ("", "", "ec2")
    target = headers.get("x-amz-target", "")
    action = target.rpartition(".")[2] if target else _form(body).get("Action", "")
    return Request(action, body, service, region, key, headers.get("x-amz-security-token", ""))


def _form(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a service is spoken to. Its functions take botocore's name of the service; `refusals` are its own codes, with their status, for
    those that EC2 has for what has nothing to do with a call itself."""

    read: Callable[[str, bytes, str], dict[str, Any]]
    write: Callable[[str, Mapping[str, Any], str, str], bytes]
    write_error: Callable[[Ec2Error, str, str], bytes]
    content_type: str
    refusals: Mapping[str, tuple[str, int]]

    def refused(self, error: Ec2Error) -> Ec2Error:
        """EC2's refusal to listen to somebody as this protocol's services say it."""
        code, status = self.refusals.get(error.code, (error.code, error.status))
        return Ec2Error(code, error.message, status)


def protocol(service: str) -> Protocol:
    """That of a service, by botocore's name of it."""
    return PROTOCOLS[str(wire.model(service).metadata["protocol"])]


def _read_query(action: str, body: bytes, service: str) -> dict[str, Any]:
    found = wire.read(action, _form(body), service)
    check(wire.asked(action, service), found, "ValidationError")
    return found


def _read_json(action: str, body: bytes, service: str) -> dict[str, Any]:
    found = jsonwire.read(action, body, service)
    check(wire.asked(action, service), found, "ValidationException")
    return found


PROTOCOLS: Mapping[str, Protocol] = {
    "ec2": Protocol(
        lambda action, body, service: wire.read(action, _form(body), service),
        wire.write,
        wire.write_error,
        "text/xml;charset=UTF-8",
        {},
    ),
    "query": Protocol(
        _read_query,
        wire.write,
        wire.write_error,
        "text/xml",
        {
            "AuthFailure": ("InvalidClientTokenId", 403),
            "RequestExpired": ("ExpiredToken", 403),
            "UnauthorizedOperation": ("AccessDenied", 403),
            "RequestLimitExceeded": ("Throttling", 400),
        },
    ),
    "json": Protocol(
        _read_json,
        lambda action, result, number, service: jsonwire.write(action, result, service),
        lambda error, number, service: jsonwire.write_error(error),
        "application/x-amz-json-1.1",
        {
            "AuthFailure": ("UnrecognizedClientException", 400),
            "RequestExpired": ("ExpiredTokenException", 400),
            "UnauthorizedOperation": ("AccessDeniedException", 400),
            "RequestLimitExceeded": ("ThrottlingException", 400),
        },
    ),
}
"""By botocore's name of the protocol."""
