"""A broken state in one piece: snapshot and journal byte for byte, as JSON, so that mending it throws nothing away."""

from __future__ import annotations

import base64
import json
from typing import Any

from falplan.core.envelope import NotWhole, is_envelope, parse_envelope
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
        "snapshot": None if content is None else base64.b64encode(content).decode(),
        "journal": None if log is None else {**log, "records": records},
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
    """The journal that a snapshot names, as far as it can be read without trusting it."""
    try:
        if is_envelope(content):
            about = parse_envelope(content).about
            return Log(about.lineage, about.serial)
        body = json.loads(content)
        return Log(str(body["lineage"]), int(body["serial"]))
    except (NotWhole, ValueError, KeyError, TypeError, RecursionError):
        return Log("", -1)
