"""Puts several entries of a folder aside and others in their place, all or none, whatever kills it. Knows nothing of what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from falplan.sdk.failpoints import fp
from falplan.stores.files import sync_folder, write_whole

INTENT = "restore.json"
INCOMING = ".restore"
"""The folder below the folder in which the new entries wait, durable, until they are moved."""


def begin_exchange(folder: Path, aside: str, outgoing: Iterable[str]) -> None:
    """Decide that the entries `outgoing` move into the folder `aside` and all of INCOMING takes their place, then do it.

    Once the decision is durable there is no way back: `finish_exchange` carries it out, here or in whichever process comes next.

    Raises:
        OSError: before the decision nothing was touched; after it, call `finish_exchange` again.
    """
    incoming = sorted(p.name for p in (folder / INCOMING).iterdir())
    body = {"aside": aside, "outgoing": sorted(outgoing), "incoming": incoming}
    write_whole(folder / INTENT, json.dumps(body).encode(), mode=0o600, point="restore")
    finish_exchange(folder)


def finish_exchange(folder: Path) -> bool:
    """Carry out what was decided, from wherever it was interrupted. False if nothing was. The caller holds the folder's lock."""
    try:
        body = json.loads((folder / INTENT).read_bytes())
    except FileNotFoundError:
        return False
    aside = folder / body["aside"]
    aside.mkdir(mode=0o700, exist_ok=True)
    for name in body[
        "outgoing"
    ]:  # all of them before the first new one comes: a name that is not aside is the old one's
        if (folder / name).exists() and not (aside / name).exists():
            _move(folder / name, aside / name)
    sync_folder(aside)
    for name in body["incoming"]:
        if (folder / INCOMING / name).exists():
            _move(folder / INCOMING / name, folder / name)
    sync_folder(folder)
    fp("restore.intent.before_removed")
    (folder / INTENT).unlink()
    sync_folder(folder)
    fp("restore.intent.after_removed")
    shutil.rmtree(folder / INCOMING, ignore_errors=True)
    return True


def _move(source: Path, target: Path) -> None:
    fp("restore.move.before")
    source.rename(target)
    fp("restore.move.after")
