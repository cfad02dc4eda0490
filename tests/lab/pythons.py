"""Other Pythons than the one that runs the tests, if this machine has any: those of a version manager, or on its path."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path


@functools.cache
def another_python() -> tuple[str, Path] | None:
    """(version as 3.12, program) of the newest one that works and is of another version than this one; None without any."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places = [*versions.glob("3.*/bin"), *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    found: dict[tuple[int, int], Path] = {}
    for program in (p for place in places for p in sorted(place.glob("python3.*"))):
        match = re.fullmatch(r"python3\.(\d+)", program.name)
        number = (3, int(match[1])) if match else (0, 0)
        if number >= (3, 9) and number != sys.version_info[:2] and number not in found and _is(program, number):
            found[number] = program.resolve()
    return (".".join(map(str, max(found))), found[max(found)]) if found else None


def _is(program: Path, number: tuple[int, int]) -> bool:
    if not os.access(program, os.X_OK) or program.read_bytes()[:2] == b"#!":
        return False
    code = "import sys; print(tuple(sys.version_info[:2]))"
    done = subprocess.run([program, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() == str(number)
