"""What a client of the gateway is given to trust."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from falplan.cli.access import _bundle
from falplan.cli.context import Options

CA = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"


def test_several_commands_may_make_the_bundle_at_one_time(tmp_path: Path) -> None:
    """Each of them removes it, makes it and reads it, again and again. Seen red with one temporary file for all."""
    context = multiprocessing.get_context("fork")
    commands = [context.Process(target=_make, args=(tmp_path, tmp_path / f"found-{n}")) for n in range(4)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)

    assert [c.exitcode for c in commands] == [0] * 4
    found = {word for n in range(4) for word in (tmp_path / f"found-{n}").read_text().splitlines()}
    assert found <= {"whole", "removed meanwhile"}
    assert "whole" in found


def _make(folder: Path, told: Path) -> None:
    options = Options(folder, environ={"XDG_CACHE_HOME": str(folder)})
    found = []
    for _ in range(50):
        path = Path(_bundle(options, "lineage", CA))
        try:
            found.append("whole" if path.read_bytes().endswith(CA.encode()) else "a part")
            path.unlink()
        except FileNotFoundError:
            found.append("removed meanwhile")
    told.write_text("\n".join(found))
