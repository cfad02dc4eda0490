"""Files of an app on a machine: once for each digest, whole, read-only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from falplan.control.bundles import ensure_bundle, has_bundle, remove_bundles_except
from falplan.core.errors import FalplanError
from falplan.core.spec.resolved import Bundle, BundleFile
from falplan.stores.bundles import archive_of, bundle_digest
from falplan_providers.local import LocalShell


def a_bundle(root: Path, **files: str) -> Bundle:
    found = []
    for name, text in sorted(files.items()):
        (root / name).write_text(text)
        found.append(BundleFile(name, hashlib.sha256(text.encode()).hexdigest(), len(text), executable=name == "run"))
    return Bundle(str(root), tuple(found))


def test_a_bundle_arrives_whole_and_read_only(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path, app="print()", run="#!/bin/sh")
    digest = bundle_digest(bundle)
    for _ in range(2):
        with archive_of(bundle) as archive:
            folder = Path(ensure_bundle(LocalShell(), str(tmp_path / "m"), digest, archive))

    assert (folder / "app").read_text() == "print()"
    assert [oct((folder / n).stat().st_mode & 0o777) for n in ("app", "run")] == ["0o444", "0o555"]


def test_the_same_files_make_the_same_archive_anywhere(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bundle = a_bundle(tmp_path / name, app="print()")
        os.utime(tmp_path / name / "app", (1, 1 + len(seen)))
        with archive_of(bundle) as archive:
            seen.append((bundle_digest(bundle), archive.read()))

    assert seen[0] == seen[1]


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path, app="print()")
    (tmp_path / "app").write_text("other")

    with pytest.raises(FalplanError, match="changed since"), archive_of(bundle):
        pass


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path, app="print()")
    root = str(tmp_path / "m")
    with archive_of(bundle) as archive, pytest.raises(FalplanError, match="It should hold"):
        ensure_bundle(LocalShell(), root, "0" * 64, archive)

    assert not has_bundle(LocalShell(), root, "0" * 64)


def test_bundles_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path, app="print()")
    digest, root = bundle_digest(bundle), str(tmp_path / "m")
    with archive_of(bundle) as archive:
        ensure_bundle(LocalShell(), root, digest, archive)

    assert remove_bundles_except(LocalShell(), root, {digest}) == []
    assert remove_bundles_except(LocalShell(), root, set()) == [digest]
    assert not has_bundle(LocalShell(), root, digest)
