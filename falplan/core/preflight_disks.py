"""What is wrong with the places on a host where falplan's things and temporary files lie, out of facts about it. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator

from falplan.core.hostfacts import Facts, FileSystem
from falplan.core.problems import GIB, Needs, Problem, error, size, warning

LEAST_DISK, LOW_DISK = 1 * GIB, 10 * GIB
"""Bytes that are free where falplan's things lie: none of a model's environments fits into less, few into little more."""

LEAST_INODES, LOW_INODES = 10_000, 100_000
"""An environment with PyTorch has about 30,000 files."""


def folder_problems(facts: Facts, needs: Needs) -> Iterator[Problem]:
    folder = facts.folder
    if folder.read_only:
        yield error(
            "folder-read-only",
            f"{folder.there} is on a file system that is mounted read-only",
            f"a place to write for {folder.path}",
            f"`mount -o remount,rw` what holds {folder.there}, or another `folder:` for the region",
        )
    elif not folder.writable:
        yield error(
            "folder-permission",
            f"{facts.user} may not write in {folder.there}",
            f"a place to write for {folder.path}",
            f"`chown {facts.user} {folder.there}`, or another `folder:` for the region",
        )
    if folder.noexec:
        tell = error if needs.builds else warning
        yield tell(
            "folder-noexec",
            f"{folder.there} is mounted noexec",
            "programs may be run there: environments and uv lie in it",
            f"`mount -o remount,exec` what holds {folder.there}, or another `folder:` for the region",
        )
    yield from _room(folder)


def _room(folder: FileSystem) -> Iterator[Problem]:
    fix = f"free some below {folder.there}, or another `folder:` for the region on a larger disk"
    if folder.free < LOW_DISK:
        tell, least = (error, LEAST_DISK) if folder.free < LEAST_DISK else (warning, LOW_DISK)
        yield tell("disk", f"{size(folder.free)} free in {folder.there}", f"{size(least)} or more", fix)
    if folder.inodes and folder.inodes_free < LOW_INODES:
        tell, fewest = (error, LEAST_INODES) if folder.inodes_free < LEAST_INODES else (warning, LOW_INODES)
        yield tell("inodes", f"{folder.inodes_free:,} inodes free in {folder.there}", f"{fewest:,} or more", fix)


def temporary_problems(facts: Facts, needs: Needs) -> Iterator[Problem]:
    place = facts.temporary
    fix = f"`mount -o remount,exec` what holds {place.there}, or TMPDIR in the apps' `environment_variables`"
    if place.noexec:
        yield warning(
            "tmp-noexec",
            f"{place.path} is mounted noexec",
            "apps that compile as they run (Triton, PyTorch) may run what they make there",
            fix,
        )
    if place.read_only or not place.writable:
        yield warning("tmp-read-only", f"{place.path} can't be written to", "a place for temporary files", fix)
