"""Where packages come from, as the user set it up for pip, said so that uv hears it. Knows nothing of requirements."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_UV_INDEXES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX")


def uv_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Variables for uv that say what pip's settings say, which uv does not read itself.

    Empty for indexes if the user has told uv about any; everything may hold credentials, and is never printed.
    """
    pip = _pip_settings(environ, home)
    found: dict[str, str] = {}
    if "cert" in pip and "SSL_CERT_FILE" not in environ:
        found["SSL_CERT_FILE"] = pip["cert"]
    if any(environ.get(name) for name in _UV_INDEXES):
        return found
    if "index-url" in pip:
        found["UV_DEFAULT_INDEX"] = pip["index-url"]
    if "extra-index-url" in pip:
        found["UV_EXTRA_INDEX_URL"] = " ".join(pip["extra-index-url"].split())
    if "find-links" in pip:
        found["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        found["UV_NO_INDEX"] = "1"
    if "trusted-host" in pip:
        found["UV_INSECURE_HOST"] = " ".join(pip["trusted-host"].split())
    if found.keys() & set(_UV_INDEXES) and not environ.get("UV_INDEX_STRATEGY"):
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does: the best version of all indexes
    return found


def home_folder() -> Path:
    """This user's home; the root of the disk, where no settings are, for one who has none."""
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and no entry in /etc/passwd
        return Path("/")


def without_credentials(text: str) -> str:
    """The text with `user:password@` of every URL struck out."""
    return re.sub(r"(?<=://)[^\s/@]+@", "***@", text)


def _pip_settings(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    settings: dict[str, str] = {}
    if environ.get("PIP_CONFIG_FILE") != "/dev/null":
        for path in _pip_files(environ, home):
            settings.update(_read(path))
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            settings[name[4:].lower().replace("_", "-")] = value
    return settings


def _pip_files(environ: Mapping[str, str], home: Path) -> list[Path]:
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    named = environ.get("PIP_CONFIG_FILE")
    return [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        config / "pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
        *([Path(named)] if named else []),
    ]


def _read(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    return found
