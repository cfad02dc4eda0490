"""What lies on the control plane's disk and its machine though no revision needs it. Finds, measures, removes; decides nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from falplan.control.bundles import bundle_path
from falplan.control.environments import keys_of
from falplan.control.host import Needed, Unused
from falplan.control.images import remove_images_except, unused_images
from falplan.control.launch import forget_homes, idle_homes
from falplan.control.ledger import Fence
from falplan.control.locks import lock_from_bytes
from falplan.core.pruning import KEPT_ASIDE
from falplan.sdk.shell import Shell
from falplan.stores.home import ASIDE, ControlHome


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The leftovers of one folder and its machine. `elsewhere`: of the machine alone, which is not the control plane's own."""

    home: ControlHome
    shell: Shell
    root: str
    elsewhere: bool = False
    fence: Fence | None = None

    def find(self, needed: Needed, older_than: float) -> list[Unused]:
        """What is neither needed nor made since `older_than` (epoch seconds). Homes of apps that are gone, however new."""
        archives = {p.name.removesuffix(".tar.gz"): p for p in sorted(self.home.bundles.glob("*.tar.gz"))}
        kept_bundles = needed.bundles | {d for d, p in archives.items() if _modified(p) > older_than}
        files = {p.stem: p for p in sorted(self.home.locks.glob("*.json"))}
        kept_locks = needed.locks | {d for d, p in files.items() if _modified(p) > older_than}
        keys = {key for d in kept_locks if d in files for key in _keys(files[d])}
        there = [
            *(Unused("bundles", bundle_path(self.root, d)) for d in self._folders("bundles") if d not in kept_bundles),
            *(
                Unused("environments", f"{self.root}/environments/{k}")
                for k in self._folders("environments")
                if k not in keys
            ),
            *self._homes(needed.endpoints),
            *(Unused("images", image) for image in sorted(unused_images(self.shell, self.root, needed.images))),
        ]
        if self.elsewhere:
            return there
        aside = sorted(self.home.folder.glob(f"{ASIDE}*"))[:-KEPT_ASIDE]
        return [
            *(Unused("uploaded bundles", str(p)) for d, p in archives.items() if d not in kept_bundles),
            *there,
            *(Unused("locks", str(p)) for d, p in files.items() if d not in kept_locks),
            *(Unused("replaced data", str(p)) for p in aside),
        ]

    def _homes(self, endpoints: set[str]) -> list[Unused]:
        if not self.shell.list(f"{self.root}/homes"):
            return []  # as everywhere but where a system's own units keep runners
        return [Unused("homes", f"{self.root}/homes/{n}") for n in idle_homes(self.shell, self.root, sorted(endpoints))]

    def size(self, path: str) -> int:
        """Bytes of a file or of everything in a folder, or of an image."""
        if not path.startswith("/"):
            return unused_images(self.shell, self.root, ()).get(path, 0)
        local = Path(path)
        if not self.elsewhere and local.is_file():
            return local.stat().st_size
        return sum(self.size(f"{path}/{e.name}") if e.is_folder else e.size for e in self.shell.list(path))

    def remove(self, found: Iterable[Unused]) -> None:
        """Remove them. What is gone already is no error."""
        for unused in found:
            if unused.kind == "homes":
                forget_homes(self.shell, self.root, [Path(unused.path).name], fence=self.fence)
                continue
            path = Path(unused.path)
            if unused.kind == "images":
                remove_images_except(self.shell, self.root, (), only=[unused.path])
            elif self.elsewhere or path.is_relative_to(self.root):
                self.shell.remove(unused.path)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _folders(self, name: str) -> Sequence[str]:
        # A name with a dot is being made: its maker gives it its own name once it is whole.
        return [e.name for e in self.shell.list(f"{self.root}/{name}") if e.is_folder and "." not in e.name]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _keys(path: Path) -> set[str]:
    try:
        return keys_of(lock_from_bytes(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return set()
