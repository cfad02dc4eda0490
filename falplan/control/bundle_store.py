"""Uploaded archives on the control plane's disk, by digest. Knows nothing of what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
from falplan.stores.files import sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BundleStore:
    """A folder of archives. What has a name there is whole."""

    folder: Path

    def path(self, digest: str) -> Path:
        """Where an archive lies, or would lie.

        Raises:
            FalplanError: that is no digest.
        """
        if not DIGEST.fullmatch(digest):
            raise FalplanError("Not a digest", "A bundle is named by the 64 hex digits of its SHA-256.")
        return self.folder / f"{digest}.tar.gz"

    def has(self, digest: str) -> bool:
        """Whether it is there. Who asks is about to deploy it: from now on it counts as new, and is not pruned under him."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    async def keep(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an archive. A second upload of the same one is harmless.

        Raises:
            FalplanError: the disk is full, or the archive is not whole.
        """
        path = self.path(digest)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{clock.new_id('part')}")
        try:
            with temporary.open("wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            fp("bundle.keep.before_rename")
            temporary.replace(path)
            sync_folder(self.folder)
        except OSError as exc:
            raise FalplanError("The bundle could not be stored", f"{self.folder}: {exc.strerror}") from exc
        finally:
            temporary.unlink(missing_ok=True)

    def remove_except(self, needed: set[str]) -> None:
        """Forget archives that nobody needs."""
        for path in self.folder.glob("*.tar.gz"):
            if path.name.removesuffix(".tar.gz") not in needed:
                path.unlink(missing_ok=True)
