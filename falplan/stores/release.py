"""Which falplan this is: its version, and a digest of its code that tells two builds of one version apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

from packaging.version import InvalidVersion, Version

from falplan import __version__


@dataclass(frozen=True, slots=True)
class Release:
    """A version, and the first 12 hex digits of the digest of its code."""

    version: str
    code: str

    def __str__(self) -> str:
        return f"{self.version}+{self.code}"

    @classmethod
    def parse(cls, text: str) -> Release:
        """The inverse of `str`."""
        version, _, code = text.rpartition("+")
        return cls(version or text, code if version else "")

    def is_older_than(self, other: Release) -> bool:
        """Whether its version is lower. Two builds of one version are neither older nor newer."""
        try:
            return Version(self.version) < Version(other.version)
        except InvalidVersion:
            return False


@cache
def this_release() -> Release:
    """The falplan that this process runs, as it was on disk when it was first asked."""
    digest = hashlib.sha256()
    for package in ("falplan", "falplan_providers"):
        for path in _sources(package):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return Release(__version__, digest.hexdigest()[:12])


def _sources(package: str) -> list[Path]:
    found = util.find_spec(package)
    folders = [Path(f) for f in (found.submodule_search_locations or ())] if found else []
    return sorted(p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".sql", ".mako"))
