"""What every command gets from the group: the options before the command's name. Reads nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """Global options.

    `folder` is the absolute folder of `-C` (the current one by default), `file` the absolute path of `-f` if given. `color` is
    False when output is no terminal or NO_COLOR is set. `environ` is the process's environment, read once.
    """

    folder: Path
    file: Path | None = None
    color: bool = False
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def path(self, given: Path | str) -> Path:
        """A path of the command line, from `folder`, without `..`. A link at its end stays one."""
        path = self.folder / given
        return path.parent.resolve() / path.name
