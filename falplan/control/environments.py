"""Locked requirements -> an environment on a machine. Knows nothing of apps, nor of how they were locked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from uv import find_uv_bin

from falplan.control.indexes import home_folder, uv_environment, without_credentials
from falplan.control.locks import Lock, unhashed
from falplan.control.tools import call
from falplan.control.uvs import short
from falplan.core.errors import FalplanError
from falplan.core.values import JsonObject, digest
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import Shell

MARKER = "falplan-environment.json"
"""The file that is in an environment only once it is whole; `builder.py` puts it there."""


def environment_key(lock_text: str, python: str, platform: str) -> str:
    """The name of an environment: the same for the same packages, Python and platform."""
    return digest({"lock": lock_text, "python": python, "platform": platform})[:20]


def keys_of(lock: Lock) -> set[str]:
    """The names of a lock's environments, on whichever machines they are."""
    return {environment_key(text, lock.python, platform) for platform, text in lock.texts.items()}


def has_environment(shell: Shell, root: str, key: str) -> bool:
    """Whether an environment is on a machine, whole."""
    return any(e.name == MARKER for e in shell.list(f"{root}/environments/{key}"))


def environment_python(root: str, key: str) -> str:
    """Where the interpreter of an environment lies on a machine."""
    return f"{root}/environments/{key}/bin/python"


def ensure_environment(
    shell: Shell,
    root: str,
    key: str,
    lock: Lock,
    *,
    uv: str | None = None,
    cache: str = "",
    wheels: str = "",
    progress: Callable[[str], None] = lambda line: None,
    timeout: float = 1800.0,
) -> str:
    """Make sure that an environment is on a machine, and return its interpreter. May be called again, and at the same time.

    `uv` is where uv lies on that machine; None: where it lies on this one. `cache` is where it keeps what it downloads; its user's own
    place by default. `wheels` is a folder there with everything that the lock names: nothing else is asked for packages.

    Raises:
        FalplanError: it can't be built, in uv's words.
    """
    answers: list[str] = []

    def hear(line: str) -> None:
        if line.startswith("\x1e"):
            answers.append(line[1:])
        else:
            progress(without_credentials(line))

    fp("environment.build.before")
    request: JsonObject = {
        "root": root,
        "key": key,
        "uv": uv or find_uv_bin(),
        "python": lock.python,
        "lock": lock.text,
        "require_hashes": not unhashed(lock.text),
        "wheels": wheels,
        "env": {**uv_environment(os.environ, home_folder()), **({"UV_CACHE_DIR": cache} if cache else {})},
        "timeout": timeout,
    }
    call(shell, root, "builder.py", request, timeout=timeout + 30, on_line=hear)
    fp("environment.build.after")
    answer = json.loads(answers[-1]) if answers else {"error": "the builder said nothing"}
    if "error" in answer:
        detail = f"{short(answer['error'])}\nPut it right and apply again; what was built so far is removed."
        raise FalplanError("The environment can't be built", detail)
    return str(answer["ok"])


@contextmanager
def folder_with(file: Path) -> Iterator[Path]:
    """A folder with nothing but this file in it, gone afterwards."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / file.name).symlink_to(file)
        yield folder


def remove_environments_except(shell: Shell, root: str, needed: Iterable[str]) -> list[str]:
    """Remove the environments that nobody needs, and return their keys. Those being built stay."""
    keep = set(needed)
    entries = shell.list(f"{root}/environments")
    gone = [e.name for e in entries if e.is_folder and "." not in e.name and e.name not in keep]
    for key in gone:
        shell.remove(f"{root}/environments/{key}")
    return gone
