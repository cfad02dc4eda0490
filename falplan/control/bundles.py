"""Puts an app's files on a machine, once for each digest. Knows nothing of the apps that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import IO

from falplan.sdk.failpoints import fp
from falplan.sdk.shell import Shell


def bundle_path(root: str, digest: str) -> str:
    """Where a bundle's files lie on a machine, read-only."""
    return f"{root}/bundles/{digest}"


def has_bundle(shell: Shell, root: str, digest: str) -> bool:
    """Whether the files are on the machine."""
    return any(e.name == digest for e in shell.list(f"{root}/bundles"))


def ensure_bundle(
    shell: Shell, root: str, digest: str, archive: IO[bytes], *, progress: Callable[[str], None] = lambda line: None
) -> str:
    """Make sure that the files are on the machine, and return their folder. May be called again, and at the same time.

    Raises:
        FalplanError: the archive holds something else than its digest says.
    """
    folder = bundle_path(root, digest)
    if not has_bundle(shell, root, digest):
        progress("bringing the app's files there")
        fp("bundle.put.before")
        shell.put_archive(archive, folder, digest)
        fp("bundle.put.after")
    return folder


def remove_bundles_except(shell: Shell, root: str, needed: Iterable[str]) -> list[str]:
    """Remove the bundles that nobody needs, and return their digests."""
    keep = set(needed)
    gone = [e.name for e in shell.list(f"{root}/bundles") if e.is_folder and e.name not in keep and "." not in e.name]
    for digest in gone:
        shell.remove(bundle_path(root, digest))
    return gone
