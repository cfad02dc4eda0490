"""Which headers cross the gateway, in both directions. Knows no connections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict

from falplan.core import protocol

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "http2-settings",
    }
)  # fmt: skip

FROM_CALLERS = frozenset(
    {
        protocol.REQUEST_TIMEOUT, protocol.RUNNER_HINT, protocol.PRIORITY, protocol.NO_RETRY, "x-fal-retry-config",
        "x-fal-store-io", "x-fal-object-lifecycle-preference", "x-fal-tags",
    }
)  # fmt: skip
"""The x-fal-* headers that callers may send. All others tell a runner what only the gateway may tell it."""

_FORGED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix",
                     "x-forwarded-port", "x-real-ip", "x-original-url", "x-rewrite-url", "x-http-method-override"})  # fmt: skip
_FRAMING = frozenset({"content-length", "expect", "host"})
_QUEUED = frozenset({"accept-encoding", "cookie", protocol.IDEMPOTENCY_KEY})
_RUNNERS_OWN = frozenset({"date", "server", protocol.REQUEST_ID, protocol.STOP_RUNNER, "x-fal-runner-health-check"})

Pairs = Iterable[tuple[str, str]]


def to_runner(headers: Mapping[str, str], *, keep_authorization: bool) -> CIMultiDict[str]:
    """A caller's headers as a runner gets them: no framing, nothing hop-by-hop, no gateway's voice, no gateway's key."""
    dropped = _named_by_connection(headers) | HOP_BY_HOP | _FORGED | _FRAMING
    if not keep_authorization:
        dropped |= {"authorization"}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        low = name.lower()
        if low in dropped or (low.startswith("x-fal-") and low not in FROM_CALLERS) or "_" in low:
            continue  # an underscore becomes a dash in CGI-like servers: x_fal_request_id would be read as ours
        kept.add(name, value)
    return kept


def to_queue(headers: Mapping[str, str], *, keep_authorization: bool) -> dict[str, str]:
    """The same for a request that is stored: lower-case names, repeated ones joined.

    Accept-Encoding goes, for nobody knows yet who fetches the answer; cookies go, for they are the browser's.
    """
    kept: dict[str, str] = {}
    for name, value in to_runner(headers, keep_authorization=keep_authorization).items():
        low = name.lower()
        if low not in _QUEUED:
            kept[low] = f"{kept[low]}, {value}" if low in kept else value
    return kept


def from_runner(headers: Mapping[str, str], status: int) -> CIMultiDict[str]:
    """A runner's headers as a caller gets them."""
    dropped = _named_by_connection(headers) | HOP_BY_HOP | _RUNNERS_OWN
    if status < 500 and status != 429:
        dropped |= {protocol.NEEDS_RETRY}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in dropped and is_sendable(value):
            kept.add(name, value)
    return kept


def stored_result(headers: Mapping[str, str], status: int) -> dict[str, str]:
    """The same for a result that is stored: lower-case names; Content-Length is made anew."""
    kept: dict[str, str] = {}
    for name, value in from_runner(headers, status).items():
        low = name.lower()
        if low not in ("set-cookie", "content-length"):
            kept[low] = f"{kept[low]}, {value}" if low in kept else value
    return kept


def is_sendable(value: str) -> bool:
    """Whether a header's value can be sent on: text that came as UTF-8, without control characters."""
    return value.isprintable() or not any("\ud800" <= c <= "\udfff" or c in "\r\n\0" for c in value)


def _named_by_connection(headers: Mapping[str, str]) -> frozenset[str]:
    getall = getattr(headers, "getall", None)
    values = getall("connection", []) if getall else [headers.get("connection", "")]
    return frozenset(name.strip().lower() for value in values for name in value.split(","))
