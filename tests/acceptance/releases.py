"""Other releases of falplan than this one, made for a test and installed as wheels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
PACKAGED = ("falplan", "providers", "README.md", "LICENSE", "pyproject.toml")
NEXT = "99.0.0"


def next_release(folder: Path) -> Path:
    """This falplan in a folder, as the release after next."""
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    init = folder / "falplan" / "__init__.py"
    text = init.read_text()
    init.write_text(text[: text.index("__version__")] + f'__version__ = "{NEXT}"\n')
    return folder


def installed(what: Path, folder: Path) -> Path:
    """The interpreter of a new environment with that falplan, as a wheel."""
    uv = find_uv_bin()
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), str(what)], check=True)
    return python


def break_(python: Path, module: str, text: str) -> None:
    """Put a line behind the imports of an installed module."""
    (path,) = python.parents[1].glob(f"lib/python*/site-packages/{module}")
    path.write_text(path.read_text() + text)
