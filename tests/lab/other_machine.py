"""Hosts that say that they are of another kind of machine than they are: their Python is told so by the C library."""

from __future__ import annotations

import subprocess
from pathlib import Path

UNAME = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/utsname.h>
int uname(struct utsname *told) {
    int (*real)(struct utsname *) = dlsym(RTLD_NEXT, "uname");
    int code = real(told);
    strcpy(told->machine, "%s");
    return code;
}
"""


def pretend(folder: Path, machine: str) -> None:
    """Put a `python3` into a folder, which is to come first on a host's path, that finds itself on this kind of machine: `aarch64`."""
    source, library = folder / "uname.c", folder / "uname.so"
    source.write_text(UNAME % machine)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    program = folder / "python3"
    program.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec /usr/bin/python3 "$@"\n')
    program.chmod(0o755)
