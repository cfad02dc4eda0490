"""What a backup says about itself, and which names it may hold. Pure: reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from falplan.core.errors import Refused
from falplan.core.values import JsonObject

FORMAT = 1
"""The layout of the archive that this falplan writes, and the newest that it reads."""

MANIFEST = "manifest.json"
DATABASE = "control.db"


@dataclass(frozen=True, slots=True)
class Held:
    """One file: its size in bytes and the SHA-256 of its content in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. `schema` is the database's; `created_at` RFC 3339 in UTC; `files` by their path in the data folder."""

    falplan: str
    lineage: str
    control_plane: str
    epoch: int
    schema: int
    created_at: str
    files: Mapping[str, Held]

    @property
    def size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(f.size for f in self.files.values())

    @property
    def holds_keys(self) -> bool:
        """Whether somebody who has the backup could act as its control plane, or call it."""
        return any(name.endswith((".key", ".pem")) for name in self.files)


class _File(BaseModel):
    model_config = ConfigDict(strict=True)
    size: int
    sha256: str


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    format: int
    falplan: str
    lineage: str
    control_plane: str
    epoch: int
    schema_: int
    created_at: str
    files: dict[str, _File]


def manifest_to_json(manifest: Manifest) -> JsonObject:
    """As it stands in the archive."""
    return {"format": FORMAT, **asdict(manifest)}


def parse_manifest(content: JsonObject, source: str) -> Manifest:
    """The inverse.

    Raises:
        Refused: it is none, or of a newer falplan.
    """
    number = content.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise Refused(
            "The backup is of a newer falplan",
            f"{source} has format {number}; this falplan reads formats up to {FORMAT}. Use the falplan that wrote it "
            f"({content.get('falplan', 'unknown')}) or a newer one.",
        )
    try:
        found = _Manifest.model_validate({("schema_" if k == "schema" else k): v for k, v in content.items()})
    except ValidationError as exc:
        where = ", ".join(".".join(map(str, e["loc"])) for e in exc.errors(include_input=False)[:5])
        raise Refused("Not a backup of falplan", f"{source}: its {MANIFEST} is wrong at {where}.") from exc
    files = {name: Held(f.size, f.sha256) for name, f in found.files.items()}
    if DATABASE not in files:
        raise Refused("Not a backup of falplan", f"{source}: its {MANIFEST} names no {DATABASE}.")
    return Manifest(
        found.falplan, found.lineage, found.control_plane, found.epoch, found.schema_, found.created_at, files
    )


def is_safe_name(name: str) -> bool:
    """Whether a member's name stays inside the folder that it is unpacked to, whatever the system: relative, plain, in normal form."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and not set(name) & {"\\", "\0", ":"}
    return plain and name.isprintable() and len(name) < 1000


def why_wrong_project(manifest: Manifest, lineage: str, source: str) -> str | None:
    """Why a backup is not of the project whose state has this lineage; None if it is."""
    if manifest.lineage == lineage:
        return None
    return (
        f"{source} was made of lineage {manifest.lineage}; this project's state has {lineage}. "
        "Restore it where it was made, with the state that belongs to it."
    )
