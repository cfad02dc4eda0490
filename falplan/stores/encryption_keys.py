"""Keys that state and plan files are encrypted with: where each kind is kept and how it is made. Never prints one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from falplan.core.errors import FalplanError, Refused
from falplan.core.secret import SecretValue
from falplan.core.values import JsonObject
from falplan.stores.project_key import VARIABLE, ProjectKeys
from falplan.stores.secret_sources import SourceMissing, read_source

SIZE = 32
SALT = 16
SHORTEST = 16
"""Characters of a passphrase."""

SCRYPT = {"n": 2**17, "r": 8, "p": 1}
"""What OWASP asks for at least: 128 MiB and a third of a second for each guess."""

MOST_SCRYPT = {"n": 2**20, "r": 16, "p": 8}
"""What a file may ask for: its parameters are read before anything vouches for them."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key at hand. `told` stands in clear beside what it seals, `key_id` among it, and tells nothing of the key."""

    told: JsonObject
    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        return str(self.told["key_id"])


class KeyMissing(Exception):
    """The key can't be had here. The text says why, never anything of a key. `passing`: trying again may help."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


class KeySource(Protocol):
    """Where one key is."""

    @property
    def provider(self) -> str:
        """The kind of key, as an envelope names it."""
        ...

    @property
    def where(self) -> str:
        """The place, for people."""
        ...

    def ready(self) -> None:
        """Get hold of whatever `for_writing` needs from elsewhere, so that it can't fail later. May be called again.

        Raises:
            KeyMissing: it is not there, or is no key.
        """
        ...

    def for_writing(self) -> MasterKey:
        """The key that seals; the same one as long as the process lives.

        Raises:
            KeyMissing: it is not there, or is no key.
        """
        ...

    def for_reading(self, told: JsonObject) -> MasterKey:
        """The key that what was told belongs to.

        Raises:
            KeyMissing: it is not there, or what is there is another one.
        """
        ...


def key_id_of(secret: bytes) -> str:
    """8 hex digits that are this key's own and tell nothing of it."""
    return hashlib.sha256(b"falplan encryption key id\0" + secret).hexdigest()[:8]


def _another(found: MasterKey | str) -> KeyMissing:
    found_id = found if isinstance(found, str) else found.key_id
    return KeyMissing(f"it holds another key, {found_id}")


@dataclass(slots=True)
class VariableKey:
    """A key in an environment variable: base64 of 32 bytes."""

    name: str
    environ: Mapping[str, str] = field(repr=False)
    provider: str = "env"

    @property
    def where(self) -> str:
        return f"environment variable {self.name}"

    def ready(self) -> None:
        self.for_writing()

    def for_writing(self) -> MasterKey:
        text = self.environ.get(self.name)
        if text is None:
            raise KeyMissing("it is not set")
        try:
            secret = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != SIZE:
            raise KeyMissing(f"it does not hold base64 of {SIZE} bytes; `openssl rand -base64 {SIZE}` makes such a key")
        return MasterKey({"provider": self.provider, "key_id": key_id_of(secret)}, secret)

    def for_reading(self, told: JsonObject) -> MasterKey:
        found = self.for_writing()
        if found.key_id != told.get("key_id"):
            raise _another(found)
        return found


@dataclass(slots=True)
class ProjectsKey:
    """A key derived from the project's own. Older keys of the project still open what they sealed."""

    keys: ProjectKeys
    provider: str = "project"

    @property
    def where(self) -> str:
        return VARIABLE if VARIABLE in self.keys.environ else str(self.keys.path)

    def ready(self) -> None:
        self.for_writing()

    def for_writing(self) -> MasterKey:
        try:
            current = self.keys.ensure().current
        except OSError as exc:
            raise KeyMissing(f"it can't be made: {exc.strerror}", passing=True) from exc
        except FalplanError as exc:
            raise KeyMissing(exc.detail or exc.summary) from exc
        return MasterKey({"provider": self.provider, "key_id": current.key_id}, current.derive("state"))

    def for_reading(self, told: JsonObject) -> MasterKey:
        try:
            found = self.keys.read()
        except FalplanError as exc:
            raise KeyMissing(exc.detail or exc.summary) from exc
        if found is None:
            raise KeyMissing("there is no project key")
        key = found.find(str(told.get("key_id")))
        if key is None:
            raise _another(", ".join(k.key_id for k in found.keys))
        return MasterKey(told, key.derive("state"))


@dataclass(slots=True)
class PassphraseKey:
    """A key derived from a passphrase. The salt of what was read last is used again, so that a command derives once."""

    source: JsonObject
    folder: Path
    environ: Mapping[str, str] = field(repr=False)
    provider: str = "passphrase"
    _words: bytes = field(default=b"", repr=False)

    @property
    def where(self) -> str:
        if "env" in self.source:
            return f"environment variable {self.source['env']}"
        return str(self.folder / Path(str(self.source["file"])).expanduser())

    def ready(self) -> None:
        """Only reads the passphrase: which salt to derive with is known once a state was read."""
        self._passphrase()

    def for_writing(self) -> MasterKey:
        passphrase = self._passphrase()
        salt, parameters = _Derived.last(passphrase) or (os.urandom(SALT), SCRYPT)
        return self._key(passphrase, salt, parameters)

    def for_reading(self, told: JsonObject) -> MasterKey:
        salt, parameters = _scrypt_of(told)
        found = self._key(self._passphrase(), salt, parameters)
        if found.key_id != told.get("key_id"):
            raise KeyMissing("it holds another passphrase")
        return found

    def _key(self, passphrase: bytes, salt: bytes, parameters: Mapping[str, int]) -> MasterKey:
        secret = _Derived.key(passphrase, salt, parameters)
        told: JsonObject = {"provider": self.provider, "key_id": key_id_of(secret), "kdf": "scrypt"}
        return MasterKey({**told, **parameters, "salt": base64.b64encode(salt).decode()}, secret)

    def _passphrase(self) -> bytes:
        if self._words:
            return self._words
        try:
            value: SecretValue = read_source(self.source, self.folder, self.environ)
        except SourceMissing as exc:
            raise KeyMissing(str(exc)) from exc
        passphrase = value.reveal().removesuffix(b"\n").removesuffix(b"\r")
        if len(passphrase.decode("utf-8", "replace")) < SHORTEST:
            raise KeyMissing(f"a passphrase has {SHORTEST} characters or more; this one is shorter")
        self._words = passphrase
        return passphrase


class _Derived:
    """Keys derived in this process: deriving one is meant to be slow, and a journal has many lines."""

    _keys: dict[tuple[bytes, bytes, tuple[tuple[str, int], ...]], bytes] = {}  # noqa: RUF012 - of the process, on purpose
    _last: dict[bytes, tuple[bytes, Mapping[str, int]]] = {}  # noqa: RUF012

    @classmethod
    def key(cls, passphrase: bytes, salt: bytes, parameters: Mapping[str, int]) -> bytes:
        name = (passphrase, salt, tuple(sorted(parameters.items())))
        if name not in cls._keys:
            from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

            cls._keys[name] = Scrypt(
                salt=salt, length=SIZE, n=parameters["n"], r=parameters["r"], p=parameters["p"]
            ).derive(passphrase)
        if all(parameters[k] >= least for k, least in SCRYPT.items()):
            cls._last[passphrase] = salt, dict(parameters)
        return cls._keys[name]

    @classmethod
    def last(cls, passphrase: bytes) -> tuple[bytes, Mapping[str, int]] | None:
        return cls._last.get(passphrase)


def _scrypt_of(told: JsonObject) -> tuple[bytes, dict[str, int]]:
    """Salt and parameters that stand beside what was sealed.

    Raises:
        KeyMissing: they are no such thing, or ask for more than any falplan does.
    """
    try:
        salt = base64.b64decode(str(told["salt"]), validate=True)
        parameters = {name: int(cast("int", told[name])) for name in SCRYPT}
    except (KeyError, TypeError, ValueError):
        raise KeyMissing("how it was derived can't be read") from None
    fits = all(1 <= parameters[name] <= most for name, most in MOST_SCRYPT.items())
    n = parameters["n"]
    if told.get("kdf") != "scrypt" or not fits or n < 2 or n & (n - 1) or not 8 <= len(salt) <= 64:
        raise KeyMissing("it was derived in a way that this falplan does not know")
    return salt, parameters


@dataclass(slots=True)
class KmsKey:
    """A key of AWS KMS, which never leaves it: it wraps a data key, asked for once a process and used for all that is written.

    So what is left of a run can still be written when KMS goes away in the middle of it.
    """

    key: str
    project: str
    region: str = ""
    endpoint_url: str = ""
    provider: str = "kms"
    _made: MasterKey | None = field(default=None, repr=False)
    _opened: dict[str, MasterKey] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        return f"AWS KMS key {self.key}" + (f" at {self.endpoint_url}" if self.endpoint_url else "")

    def ready(self) -> None:
        self.for_writing()

    def for_writing(self) -> MasterKey:
        if self._made is None:
            answer = self._ask("generate_data_key", KeyId=self.key, KeySpec="AES_256")
            wrapped = base64.b64encode(answer["CiphertextBlob"]).decode()
            told: JsonObject = {"provider": self.provider, "key_id": str(answer["KeyId"]), "wrapped": wrapped}
            self._made = self._opened[wrapped] = MasterKey(told, answer["Plaintext"])
        return self._made

    def for_reading(self, told: JsonObject) -> MasterKey:
        wrapped = str(told.get("wrapped"))
        if wrapped not in self._opened:
            try:
                blob = base64.b64decode(wrapped, validate=True)
            except ValueError:
                raise KeyMissing("the wrapped key can't be read") from None
            answer = self._ask("decrypt", CiphertextBlob=blob)
            if len(answer["Plaintext"]) != SIZE:
                raise KeyMissing("it wraps something that is no key of falplan")
            self._opened[wrapped] = MasterKey(told, answer["Plaintext"])
        return self._opened[wrapped]

    def _ask(self, verb: str, **request: Any) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        patience = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 3, "mode": "standard"})
        region = self.region or _region_of(self.key)
        try:
            client = boto3.Session().client(
                "kms", region_name=region or None, endpoint_url=self.endpoint_url or None, config=patience
            )
            return getattr(client, verb)(**request, EncryptionContext={"falplan:project": self.project})
        except ClientError as exc:
            code = str(exc.response.get("Error", {}).get("Code", "unknown"))
            passing = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
            raise KeyMissing(_KMS_SAYS.get(code, f"KMS answered {code}"), passing=passing) from exc
        except BotoCoreError as exc:
            raise KeyMissing(f"KMS could not be asked ({type(exc).__name__})", passing=True) from exc


_KMS_SAYS = {
    "AccessDeniedException": "KMS denies its use (kms:GenerateDataKey and kms:Decrypt are needed)",
    "NotFoundException": "KMS knows no such key",
    "InvalidCiphertextException": "KMS can't unwrap it: another key wrapped it, or it was changed",
    "IncorrectKeyException": "another key of KMS wrapped it",
    "DisabledException": "the key is disabled",
    "KMSInvalidStateException": "the key is disabled, or about to be deleted",
    "ExpiredTokenException": "the AWS credentials have expired",
}


def _region_of(key: str) -> str:
    """The region in an ARN; empty for ids and aliases."""
    parts = key.split(":")
    return parts[3] if len(parts) > 5 and parts[0] == "arn" else ""


def source_of(spec: Mapping[str, Any], *, project: str, folder: Path, keys: ProjectKeys) -> KeySource | None:
    """The key that the spec names; None for `none`. `folder` is the spec's."""
    if "passphrase" in spec:
        return PassphraseKey(dict(spec["passphrase"]), folder, keys.environ)
    if "env" in spec:
        return VariableKey(str(spec["env"]), keys.environ)
    if "project" in spec:
        return ProjectsKey(keys)
    if "kms" in spec:
        return KmsKey(str(spec["kms"]), project, str(spec.get("region", "")), str(spec.get("endpoint_url", "")))
    if spec:
        raise Refused("Unknown kind of key", f"state.encryption names {', '.join(sorted(spec))}.")
    return None
