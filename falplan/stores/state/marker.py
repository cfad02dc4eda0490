"""Remembers on this machine where the state was, so that another `state:` in the spec never starts afresh in silence. Holds no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from falplan.core.errors import Refused
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.files import write_whole

DEFAULT_FOLDER = ".falplan"
MARKER = f"{DEFAULT_FOLDER}/backend.json"
"""Always the same file below the spec's folder, wherever the state is."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Where the state was when it was last written from here. `section` is that `state:` of the spec, defaults filled in."""

    where: str
    section: Mapping[str, Json]
    lineage: str = ""


def marker_path(root: Path) -> Path:
    """Where it is remembered."""
    return root / MARKER


def read_marker(root: Path) -> Marker | None:
    """What is remembered; None if nothing is. A local state from before there were markers counts as one.

    Raises:
        Refused: it can't be read.
    """
    path = marker_path(root)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return Marker(str(body["where"]), dict(body["section"]), str(body["lineage"]))
    except FileNotFoundError:
        local = root / DEFAULT_FOLDER / "state.json"
        return Marker(str(local), {"backend": "local", "path": DEFAULT_FOLDER}) if local.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        detail = (
            f"{path} says where the state was, and it can't be read ({type(exc).__name__}). If `state:` in the spec names the right place, "
            "remove that file."
        )
        raise Refused("It is not known where the state is", detail) from exc


def write_marker(root: Path, marker: Marker) -> None:
    """Remember.

    Raises:
        OSError: what was remembered before still is.
    """
    path = marker_path(root)
    body: JsonObject = {"where": marker.where, "section": dict(marker.section), "lineage": marker.lineage}
    text = json.dumps(body, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fp("marker.write.before_write")
    write_whole(path, text.encode(), point="marker")
    fp("marker.write.after_write")


def is_same_place(marker: Marker, where: str, section: Mapping[str, Json], root: Path) -> bool:
    """Whether the spec names the place that is remembered. A folder that moved with its spec is the same one."""
    if section.get("backend", "local") == "local" and marker.section.get("backend") == "local":
        before = cast("str", marker.section.get("path") or DEFAULT_FOLDER)
        return before == (section.get("path") or DEFAULT_FOLDER)
    return marker.where == where


def refuse_moved(root: Path, where: str, section: Mapping[str, Json]) -> str:
    """Refuse to work on one state while what was applied stands in another. Returns the lineage that is remembered, empty if none is.

    Raises:
        Refused: `state:` names another place than the one that is remembered.
    """
    marker = read_marker(root)
    if marker is None or is_same_place(marker, where, section, root):
        return marker.lineage if marker else ""
    raise Refused(
        "The state is elsewhere",
        f"It was last written to {marker.where}, and `state:` in the spec names {where}. Nothing was touched. "
        "`falplan state migrate` brings it there; or write the old place under `state:` again.",
    )
