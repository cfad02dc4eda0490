"""Images of containers on a machine, as the control plane has them fetched and removed. Knows nothing of apps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from falplan.control.tools import ask, call
from falplan.core.errors import FalplanError
from falplan.core.values import Json
from falplan.sdk.shell import Shell

FETCHING = 1800.0  # seconds


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a machine has: `docker` or `podman`, and the id by which that engine runs it and no other."""

    engine: str
    id: str


def ensure_image(
    shell: Shell,
    root: str,
    image: str,
    *,
    progress: Callable[[str], None] = lambda line: None,
    timeout: float = FETCHING,
) -> Image:
    """Make sure that an image is on a machine, the very one. May be called again.

    Raises:
        FalplanError: it can't be had, in the engine's words.
    """
    answers: list[str] = []

    def hear(line: str) -> None:
        if line.startswith("\x1e"):
            answers.append(line[1:])
        else:
            progress(line)

    call(
        shell,
        root,
        "images.py",
        {"root": root, "image": image, "timeout": timeout},
        timeout=timeout + 30,
        on_line=hear,
    )
    answer: dict[str, Any] = json.loads(answers[-1]) if answers else {"error": "nothing was said"}
    if "error" in answer:
        raise FalplanError("The image can't be had", str(answer["error"]))
    return Image(str(answer["ok"]["engine"]), str(answer["ok"]["id"]))


def unused_images(shell: Shell, root: str, needed: Iterable[str]) -> dict[str, int]:
    """Images that were fetched there and that nobody needs, with their sizes in bytes."""
    if not _fetched_any(shell, root):
        return {}
    found = cast("Any", ask(shell, root, {"verb": "unused_images", "root": root, "keep": list[Json](sorted(needed))}))
    return {str(i["image"]): int(i["size"]) for i in found}


def remove_images_except(
    shell: Shell, root: str, needed: Iterable[str], only: Iterable[str] | None = None
) -> list[str]:
    """Remove images that were fetched there and that nobody needs, or those `only`; their names. What a container uses stays for now."""
    if not _fetched_any(shell, root):
        return []
    wanted: Json = None if only is None else list[Json](sorted(only))
    request: dict[str, Json] = {
        "verb": "prune_images",
        "root": root,
        "keep": list[Json](sorted(needed)),
        "only": wanted,
    }
    return [str(i) for i in cast("list[Json]", ask(shell, root, request, timeout=300.0))]


def _fetched_any(shell: Shell, root: str) -> bool:
    """Whether any image ever was: where none was, nobody is asked."""
    return any(e.name == "images.json" for e in shell.list(f"{root}/containers"))
