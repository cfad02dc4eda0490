"""A bundle's files on their way to a control plane: digest and archive. Reads exactly the bytes that were planned."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from falplan.core.errors import FalplanError
from falplan.core.spec.resolved import Bundle, BundleFile
from falplan.sdk.trees import TreeFile, hashes_digest, write_archive


def bundle_digest(bundle: Bundle) -> str:
    """The digest of the files' names, contents and executable bits."""
    return hashes_digest(bundle.hashes())


@contextmanager
def archive_of(bundle: Bundle) -> Iterator[IO[bytes]]:
    """A reproducible tar.gz of the files, open at its beginning; gone afterwards.

    Raises:
        FalplanError: a file is not as it was when the plan was made.
    """
    with tempfile.TemporaryFile() as target:
        write_archive((_verified(Path(bundle.root), f) for f in bundle.files), target)
        target.seek(0)
        yield target


def _verified(root: Path, file: BundleFile) -> TreeFile:
    path = root / file.path
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise FalplanError("A file changed since the plan was made", f"{path}: {exc.strerror}. Plan again.") from exc
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise FalplanError("A file changed since the plan was made", f"{path} has other content now. Plan again.")
    return TreeFile(file.path, content, file.executable)
