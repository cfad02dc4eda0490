"""Encrypts state and plan files (AES-256-GCM), each bound to its project, environment, lineage, serial and kind."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

from falplan.core.envelope import About, Envelope, NotWhole, is_envelope, parse_envelope, render_envelope
from falplan.core.errors import FalplanError, Refused
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import StateUnreadable
from falplan.core.values import JsonObject
from falplan.stores.encryption_keys import SIZE, KeyMissing, KeySource, MasterKey, source_of
from falplan.stores.project_key import ProjectKeys
from falplan.stores.state.seal import NoSeal, Seal

NONCE = 12
STATE, PLAN = "state", "plan"
"""Kinds; a third one is `journal/<seq>`."""


class KeyNotHere(Refused):
    """What is there is whole as far as anybody can tell, and its key is elsewhere. Nothing was touched."""


@dataclass(slots=True)
class EncryptedSeal:
    """A seal that encrypts. `writing` seals and opens, `previous` only open; without `writing`, what is written is in clear.

    `in_clear`: what is not encrypted is read, too. `lineage` is that of the state at hand: what belongs to another one is refused. A
    snapshot tells it, so that only plans need to be given it. Nothing that is raised or printed holds anything of a key.
    """

    project: str
    writing: KeySource | None
    previous: tuple[KeySource, ...] = ()
    in_clear: bool = False
    environment: str = ""
    lineage: str = ""
    _master: MasterKey | None = field(default=None, repr=False)
    _run: bytes = field(default_factory=lambda: os.urandom(16), repr=False)

    def prepare(self) -> None:
        """Have the key that writes before anything is done whose record would need it. May be called again.

        Raises:
            FalplanError, Refused: it can't be had; nothing was touched.
        """
        if self.writing is not None and self._master is None:
            try:
                self.writing.ready()
            except KeyMissing as exc:
                raise self._keyless(self.writing, exc) from exc

    @staticmethod
    def _keyless(source: KeySource, error: KeyMissing) -> FalplanError:
        kind = FalplanError if error.passing else Refused
        detail = f"The key of `state.encryption` is to be in {source.where}: {error}. Nothing was touched."
        return kind("The state can't be encrypted", detail)

    def seal(self, plain: bytes, *, kind: str, serial: int) -> bytes:
        """The bytes to store.

        Raises:
            FalplanError, Refused: the key can't be had. Never after `prepare`.
        """
        if kind == STATE:
            self.lineage = _lineage_in(plain)
        if self.writing is None:
            return plain
        master = self._master = self._master or self._writing_key(self.writing)
        key: JsonObject = {**master.told, "run": base64.b64encode(self._run).decode()}
        about = About(self.project, self.environment, self.lineage, serial, kind)
        nonce = os.urandom(NONCE)
        unsealed = Envelope(about, key, b"")
        sealed = nonce + _cipher(master, self._run).encrypt(nonce, plain, unsealed.bound)
        return render_envelope(Envelope(about, key, sealed))

    def _writing_key(self, source: KeySource) -> MasterKey:
        try:
            return source.for_writing()
        except KeyMissing as exc:
            raise self._keyless(source, exc) from exc

    def open(self, sealed: bytes, *, kind: str, serial: int | None) -> bytes:
        """What was sealed.

        Raises:
            StateUnreadable: in clear although it must not be, changed, or for another place. Refused instead for a plan.
            KeyNotHere: sealed with a key that is not here.
            FalplanError: the key can't be asked for just now.
        """
        if not is_envelope(sealed):
            return self._clear(sealed, kind)
        try:
            envelope = parse_envelope(sealed)
        except NotWhole as exc:
            _refuse(kind, "damaged", f"It is encrypted, and {exc}.")
        self._check(envelope.about, kind, serial)
        plain = _opened(envelope, self._key(envelope), kind)
        if kind == STATE:
            self.lineage = envelope.about.lineage
        return plain

    def _clear(self, plain: bytes, kind: str) -> bytes:
        if kind == STATE and not plain.strip():
            return plain  # whoever asked says what an empty file means
        if self.in_clear or self.writing is None:
            self.lineage = _lineage_in(plain) if kind == STATE else self.lineage
            return plain
        raise _error(kind)(
            f"{_name(kind)} is not encrypted",
            "`state.encryption` is set, and what is in clear may have been put there by anybody. If encryption was just switched on, "
            "add `none` to `state.encryption.previous`, run `falplan state backup make`, which writes it encrypted, and remove it again.",
        )

    def _check(self, about: About, kind: str, serial: int | None) -> None:
        lineage = self.lineage if kind != STATE else ""
        wanted = About(
            self.project,
            self.environment,
            lineage or about.lineage,
            about.serial if serial is None else serial,
            kind,
        )
        if about == wanted:
            return
        names = ("project", "environment", "lineage", "serial", "kind")
        differs = [
            f"{name} {_word(getattr(about, name)) or '(all)'} and not {getattr(wanted, name) or '(all)'}"
            for name in names
            if getattr(about, name) != getattr(wanted, name)
        ]
        _refuse(kind, "of something else", f"What lies there was encrypted for {', '.join(differs)}.")

    def _key(self, envelope: Envelope) -> MasterKey:
        told, looked, passing = envelope.key, [], False
        for source in ([self.writing] if self.writing else []) + list(self.previous):
            if source.provider != told.get("provider"):
                looked.append(f"{source.where}: another kind of key")
                continue
            try:
                return source.for_reading(told)
            except KeyMissing as exc:
                looked.append(f"{source.where}: {exc}")
                passing = passing or exc.passing
        needs = f"It needs the key {_word(told.get('key_id'))} ({_word(told.get('provider'))})."
        places = "\n".join(f"  - {place}" for place in looked) or "  - nowhere: `state.encryption` names no key"
        detail = f"{needs} Looked for in:\n{places}\nKeys that only read belong in `state.encryption.previous`."
        error = FalplanError if passing else KeyNotHere
        raise error(f"{_name(envelope.about.kind)} is encrypted with a key that is not here", detail)


def _opened(envelope: Envelope, master: MasterKey, kind: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    nonce, content = envelope.sealed[:NONCE], envelope.sealed[NONCE:]
    try:
        run = base64.b64decode(str(envelope.key.get("run")), validate=True)
        return bytes(_cipher(master, run).decrypt(nonce, content, Envelope(envelope.about, envelope.key, b"").bound))
    except (InvalidTag, ValueError):
        _refuse(
            kind, "damaged", "It was changed after it was encrypted: its seal does not hold. Nothing in it is trusted."
        )


def _cipher(master: MasterKey, run: bytes) -> Any:
    """AES-256-GCM under a key of one run alone, so that random nonces never meet, however long the key is kept."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), SIZE, salt=run, info=b"falplan/1/encryption").derive(master.secret))


_LINEAGE = re.compile(rb'\s*\{\s*(?:"[a-z_]+":\s*(?:\d+|"[^"\\]*")\s*,\s*)*?"lineage":\s*"([^"\\]*)"')


def _lineage_in(plain: bytes) -> str:
    """The lineage of a snapshot; empty if it is none. It stands near the start, which saves reading all of it."""
    found = _LINEAGE.match(plain[:4096])
    if found:
        return found[1].decode("utf-8", "replace")
    try:
        return str(json.loads(plain)["lineage"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _word(value: object) -> str:
    """What an envelope says of its key, fit to be shown: it may be anybody's."""
    return "".join(c for c in str(value)[:200] if c.isprintable())


def _name(kind: str) -> str:
    return "The plan file" if kind == PLAN else "The state" if kind == STATE else "The journal"


def _error(kind: str) -> type[Refused]:
    return Refused if kind == PLAN else StateUnreadable


def _refuse(kind: str, what: str, detail: str) -> NoReturn:
    hint = "Make a new plan." if kind == PLAN else "`falplan state repair` tells what can be done."
    raise _error(kind)(f"{_name(kind)} is {what}", f"{detail} {hint}")


def seal_of(
    section: Mapping[str, Any],
    project: str,
    root: Path,
    environ: Mapping[str, str],
    *,
    environment: str = "",
    lineage: str = "",
) -> EncryptedSeal | NoSeal:
    """The seal that a resolved `state:` section asks for. `root` is the spec's folder. Asks for no key before one is needed."""
    encryption = cast("Mapping[str, Any] | None", section.get("encryption"))
    if not encryption:
        return NoSeal()
    keys = ProjectKeys(root / str(section.get("path") or ".falplan"), environ)
    sources = [
        source_of(key, project=project, folder=root, keys=keys)
        for key in (encryption["key"], *encryption.get("previous", ()))
    ]
    previous = tuple(s for s in sources[1:] if s is not None)
    in_clear = any(s is None for s in sources)
    return EncryptedSeal(project, sources[0], previous, in_clear, environment, lineage)


def seal_for(
    spec: ResolvedSpec, environ: Mapping[str, str], *, environment: str = "", lineage: str = ""
) -> EncryptedSeal | NoSeal:
    """The seal that the spec asks for, for its state, and for plans of one environment (empty: all) and lineage."""
    return seal_of(spec.state, spec.project, Path(spec.folder), environ, environment=environment, lineage=lineage)


def variables_of(spec: ResolvedSpec) -> set[str]:
    """Environment variables that hold a key or a passphrase: nothing that is started gets them."""
    encryption = cast("Mapping[str, Any] | None", spec.state.get("encryption")) or {"key": {}}
    keys = [encryption["key"], *encryption.get("previous", ())]
    return {str(k["env"]) for k in keys if "env" in k} | {
        str(k["passphrase"]["env"]) for k in keys if "env" in k.get("passphrase", {})
    }


__all__ = ["EncryptedSeal", "NoSeal", "Seal", "seal_for", "variables_of"]
