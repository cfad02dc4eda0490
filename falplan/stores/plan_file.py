"""Files of saved plans: signed under the project's key, and sealed where that is configured. Knows not what a plan says.

The first line is `falplan-plan FORMAT KEY SIZE SIGNATURE`; the rest, SIZE bytes, is what the signature vouches for, together with
what stands before it in that line.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

from falplan import __version__
from falplan.core.errors import FalplanError, Refused
from falplan.core.saved_plan import UNFIT
from falplan.core.values import JsonObject
from falplan.stores.files import write_whole
from falplan.stores.project_key import Keyring, ProjectKey
from falplan.stores.state.seal import Seal

FORMAT_VERSION = 1
PURPOSE = "plan signatures"
KIND = "plan"
"""What a seal binds the file to."""

MAGIC = b"falplan-plan "
_HEAD = re.compile(rb"falplan-plan (0|[1-9]\d{0,5}) ([0-9a-f]{8}) (0|[1-9]\d{0,11}) ([0-9a-f]{64})")
_NEW = "Make a new plan: `falplan plan --out FILE`."


def write_plan(path: Path, body: JsonObject, serial: int, key: ProjectKey, seal: Seal) -> None:
    """Write it, whole, for this user alone (0600). `serial` is that of the state that it was made from.

    Raises:
        FalplanError: the file can't be written; one that was there before is untouched.
    """
    content = plan_bytes(body, serial, key, seal)
    try:
        write_whole(path, content, mode=0o600, point="plan_file")
    except OSError as exc:
        raise FalplanError("The plan can't be saved", f"{path}: {exc.strerror or exc}. Nothing was changed.") from exc


def plan_bytes(body: JsonObject, serial: int, key: ProjectKey, seal: Seal) -> bytes:
    """The whole file."""
    plain = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    payload = seal.seal(plain, kind=KIND, serial=serial)
    head = b"falplan-plan %d %s %d" % (FORMAT_VERSION, key.key_id.encode(), len(payload))
    return head + b" " + _signature(key, head, payload).encode() + b"\n" + payload


def read_plan(path: Path, keys: Keyring | None, seal: Seal) -> JsonObject:
    """What `write_plan` wrote.

    Raises:
        Refused: it is no saved plan, unsigned, edited, cut short, signed by a key that is not this project's, or newer; says which.
        FalplanError: the file can't be read.
    """
    return plan_of(read_bytes(path), str(path), keys, seal)


def read_bytes(path: Path) -> bytes:
    """The file as it is.

    Raises:
        FalplanError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise FalplanError("The saved plan can't be read", f"{path}: {exc.strerror or exc}.") from exc


def plan_of(content: bytes, source: str, keys: Keyring | None, seal: Seal) -> JsonObject:
    """What stands in these bytes, once their signature was found to be right. `source` is named in errors."""
    line, newline, payload = content.partition(b"\n")
    if not line.startswith(MAGIC):
        raise _refused(source, "It is not a saved plan" if not content.startswith(b"{") else "It is not signed")
    version = line.removeprefix(MAGIC).partition(b" ")[0]
    if version.isdigit() and int(version[:9]) > FORMAT_VERSION:
        newer = f"It has format {int(version[:9])}; falplan {__version__} reads up to {FORMAT_VERSION}"
        raise _refused(source, f"{newer}. Apply it with the falplan that made it")
    found = _HEAD.fullmatch(line)
    if not newline or found is None:
        raise _refused(source, "Its first line is cut short or was edited")
    key_id, size, signature = found[2].decode(), int(found[3]), found[4].decode()
    if len(payload) < size:
        raise _refused(source, f"It is half-written: {len(payload):,} of {size:,} bytes are there")
    key = keys.find(key_id) if keys else None
    if key is None:
        has = f"this project has {', '.join(k.key_id for k in keys.keys)}" if keys else "this project has none here"
        raise _refused(source, f"It is signed with key {key_id}; {has}")
    if not hmac.compare_digest(_signature(key, line.rpartition(b" ")[0], payload), signature):
        raise _refused(source, "It was edited after it was signed: the signature does not match")
    return _parsed(seal.open(payload, kind=KIND, serial=None), source)


def variables_in(content: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`--var` and `--var-file` options that the plan was made with, unverified: to read the spec with, which leads to the key.

    Nothing for a sealed file, or one that is none. What is believed wrongly here makes another spec, which is refused later.
    """
    try:
        binding: Any = json.loads(content.partition(b"\n")[2])["binding"]
        return tuple(map(str, binding["variables"])), tuple(map(str, binding["variable_files"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return (), ()


def is_plan(path: Path) -> bool:
    """Whether the file says of itself that it is a saved plan."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _signature(key: ProjectKey, head: bytes, payload: bytes) -> str:
    seal = hmac.new(key.derive(PURPOSE), digestmod=hashlib.sha256)
    seal.update(head + b"\n")
    seal.update(payload)
    return seal.hexdigest()


def _parsed(content: bytes, source: str) -> JsonObject:
    try:
        body = json.loads(content)
    except ValueError as exc:
        raise _refused(source, "What was signed is no plan of this falplan") from exc
    if not isinstance(body, dict):
        raise _refused(source, "What was signed is no plan of this falplan")
    return body


def _refused(source: str, why: str) -> Refused:
    return Refused(UNFIT, f"{source}: {why}. Nothing was changed. {_NEW}")
