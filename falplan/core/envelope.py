"""What an encrypted file looks like: who it belongs to in clear, the rest sealed. Knows no keys and no files."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import cast

from falplan.core.values import JsonObject, canonical

VERSION = 1
_MARK = b'{"falplan_encrypted":'


class NotWhole(ValueError):
    """The bytes are not an envelope as it was written. The text says why, and shows nothing of them."""


@dataclass(frozen=True, slots=True)
class About:
    """What an envelope belongs to: it is good there and nowhere else.

    `environment` is empty for what belongs to the whole project. `kind` is `state`, `journal/<seq>` or `plan`.
    """

    project: str
    environment: str
    lineage: str
    serial: int
    kind: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """Sealed bytes with what they belong to. `key` tells which key opens them, and nothing of it."""

    about: About
    key: JsonObject
    sealed: bytes

    @property
    def bound(self) -> bytes:
        """The bytes that the seal covers beside the content: change one, and it does not open."""
        return canonical({"falplan_encrypted": VERSION, "meta": _meta(self)})


def is_envelope(raw: bytes) -> bool:
    """Whether the bytes begin as an envelope does. What does not is in clear, or nothing of ours."""
    return b'"falplan_encrypted"' in raw[:64]


def render_envelope(envelope: Envelope) -> bytes:
    """One line of JSON without a newline: always the same bytes for the same envelope."""
    body = {
        "falplan_encrypted": VERSION,
        "meta": _meta(envelope),
        "data": base64.b64encode(envelope.sealed).decode(),
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()


def parse_envelope(raw: bytes) -> Envelope:
    """The envelope that `render_envelope` wrote, and only byte for byte: nothing can be changed in it that the seal does not see.

    Raises:
        NotWhole: torn, edited, or of a newer format.
    """
    try:
        body = json.loads(raw)
        version = body["falplan_encrypted"]
        if isinstance(version, int) and version > VERSION:
            raise NotWhole(f"it has format {version} of encryption; this falplan reads {VERSION}")
        meta = body["meta"]
        about = About(
            str(meta["project"]), str(meta["environment"]), str(meta["lineage"]), int(meta["serial"]), str(meta["kind"])
        )
        envelope = Envelope(about, cast("JsonObject", dict(meta["key"])), base64.b64decode(body["data"], validate=True))
        whole = raw.startswith(_MARK) and render_envelope(envelope) == raw
    except NotWhole:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise NotWhole("it is torn or damaged") from None
    if not whole:
        raise NotWhole("it was edited or damaged")
    return envelope


def _meta(envelope: Envelope) -> JsonObject:
    about = envelope.about
    return {
        "project": about.project,
        "environment": about.environment,
        "lineage": about.lineage,
        "serial": about.serial,
        "kind": about.kind,
        "key": envelope.key,
    }
