"""Keys that this user keeps for control planes that live elsewhere: one private file a lineage, or a URL before its lineage is known."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from falplan.core.errors import Refused
from falplan.stores.files import write_whole
from falplan.stores.home import user_folder


@dataclass(frozen=True, slots=True)
class UserKeys:
    """`$XDG_CONFIG_HOME/falplan/keys/` (0700), with one file (0600) for each lineage."""

    folder: Path

    def read(self, lineage: str) -> str | None:
        """The key kept for a lineage; None if there is none.

        Raises:
            Refused: others may read it.
        """
        path = self._path(lineage)
        try:
            mode = path.stat().st_mode
            key = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        if stat.S_IMODE(mode) & 0o077:
            raise Refused("A key is readable by others", f"{path} must have mode 0600: chmod 600 {path}")
        return key

    def _path(self, name: str) -> Path:
        return self.folder / quote(name, safe="")

    def keep(self, lineage: str, key: str) -> Path:
        """Keep a key, readable by this user alone."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(lineage)
        write_whole(path, (key + "\n").encode(), mode=0o600, point="userkey")
        return path


def user_keys(environ: Mapping[str, str]) -> UserKeys:
    """The keys of the user whose environment it is."""
    return UserKeys(user_folder(environ, "XDG_CONFIG_HOME", ".config") / "falplan" / "keys")


def given_key(environ: Mapping[str, str], lineage: str) -> str | None:
    """FALPLAN_KEY if it is set, the kept key otherwise."""
    return environ.get("FALPLAN_KEY", "").strip() or user_keys(environ).read(lineage)


def cache_folder(environ: Mapping[str, str], lineage: str) -> Path:
    """Where what can be made again is kept for a lineage that lives elsewhere."""
    return user_folder(environ, "XDG_CACHE_HOME", ".cache") / "falplan" / lineage
