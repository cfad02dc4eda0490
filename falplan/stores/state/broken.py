"""A broken state in one piece: snapshot and journal byte for byte, as JSON, so that mending it throws nothing away."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from falplan.stores.state.backend import Journal, Loaded, Log, Snapshot

KIND = "falplan state: broken"


def packed(loaded: Loaded) -> bytes:
    """Everything that was found, in one document."""
    journal = loaded.journal
    records = [[number, base64.b64encode(record).decode()] for number, record in journal.records]
    log = {"lineage": journal.log.lineage, "serial": journal.log.serial} if journal.log else None
    content = loaded.snapshot.content if loaded.snapshot else None
    body = {
        "kind": KIND,
        "journal": None if log is None else {**log, "records": records},
        "snapshot": None if content is None else base64.b64encode(content).decode(),
    }
    return (json.dumps(body, indent=1) + "\n").encode()


def unpacked(loaded: Loaded) -> Loaded:
    """What `packed` put together, where it was left behind by a repair that was killed; anything else as it is."""
    snapshot = loaded.snapshot
    if snapshot is None or KIND.encode() not in snapshot.content[:80]:
        return loaded
    try:
        body: Any = json.loads(snapshot.content)
        content = None if body["snapshot"] is None else base64.b64decode(body["snapshot"])
        journal = Journal()
        if body["journal"] is not None:
            records = tuple((int(n), base64.b64decode(r)) for n, r in body["journal"]["records"])
            journal = Journal(Log(body["journal"]["lineage"], body["journal"]["serial"]), records)
        found = None if content is None else Snapshot(content, snapshot.version)
        return Loaded(found, journal, loaded.remains or "a repair of it was interrupted")
    except (ValueError, KeyError, TypeError):
        return loaded


def log_told(content: bytes) -> Log:
    """The journal that a snapshot names, as far as it can be read without trusting it: also one that is torn."""
    lineage, serial = _LINEAGE.search(content[:_HEAD]), _SERIAL.search(content[:_HEAD])
    return Log(lineage[1].decode(), int(serial[1])) if lineage and serial else Log("", -1)


_HEAD = 4096
_LINEAGE = re.compile(rb'"lineage":\s*"([^"\\\x00-\x1f\x7f-\xff]{1,200})"')
_SERIAL = re.compile(rb'"serial":\s*(\d{1,15})')
