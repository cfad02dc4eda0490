"""Reads a secret from where the spec says that it is. Shows none; knows nothing of plans."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from falplan import clock
from falplan.core.secret import LONGEST, SecretValue
from falplan.core.values import JsonObject
from falplan.stores.project_key import VARIABLE

TIMEOUT = 30.0
"""Seconds that a command may take."""


class SourceMissing(Exception):
    """The value can't be had here. The text says why, and names the source; it never holds anything of a value."""


def read_source(
    source: JsonObject, folder: Path, environ: Mapping[str, str], *, timeout: float = TIMEOUT
) -> SecretValue:
    """The value that `env`, `file` or `command` names. Relative paths and commands start at `folder`.

    Raises:
        SourceMissing: with the reason.
    """
    if "env" in source:
        return _of_variable(str(source["env"]), environ)
    if "file" in source:
        return _of_file(folder / Path(str(source["file"])).expanduser(), str(source["file"]))
    return _of_command([str(a) for a in cast("list[str]", source["command"])], folder, environ, timeout)


def _of_variable(name: str, environ: Mapping[str, str]) -> SecretValue:
    value = environ.get(name)
    if value is None:
        raise SourceMissing(f"the environment variable {name} is not set")
    return SecretValue(os.fsencode(value))


def _of_file(path: Path, shown: str) -> SecretValue:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not keep us waiting
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceMissing(f"{shown} is not a regular file")
            return SecretValue(file.read(LONGEST + 1))
    except OSError as exc:
        raise SourceMissing(f"the file {shown} can't be read: {exc.strerror}") from exc


def _of_command(argv: list[str], folder: Path, environ: Mapping[str, str], timeout: float) -> SecretValue:
    """What the program prints, less one newline at the end. What it says on stderr may hold anything, and is dropped."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={name: value for name, value in environ.items() if name != VARIABLE},
            start_new_session=True,
        )
    except OSError as exc:
        raise SourceMissing(f"the command {argv[0]} can't be run: {exc.strerror}") from exc
    with process:
        try:
            out = _output(process, argv[0], timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so that the group is still its own
            raise
    if process.returncode != 0:
        raise SourceMissing(f"the command {argv[0]} ended with status {process.returncode}")
    return SecretValue(out.removesuffix(b"\n"))


def _output(process: subprocess.Popen[bytes], name: str, timeout: float) -> bytes:
    assert process.stdout  # noqa: S101 - it was asked for
    give_up, out = clock.monotonic() + timeout, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(out) <= LONGEST + 1:
            if not selector.select(max(0.0, give_up - clock.monotonic())):
                raise SourceMissing(f"the command {name} did not end within {timeout:g} s")
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            out += chunk
        else:
            raise SourceMissing(f"the command {name} printed more than {LONGEST:,} bytes")
    try:
        process.wait(max(0.1, give_up - clock.monotonic()))
    except subprocess.TimeoutExpired:
        raise SourceMissing(f"the command {name} did not end within {timeout:g} s") from None
    return out
