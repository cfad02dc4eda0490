"""Builds a Python environment out of locked requirements, once for each key. Knows nothing of apps.

`python -I -S builder.py` reads {root, key, uv, python, lock, require_hashes, wheels, env, timeout} from standard input as JSON, prints
progress line by line, and at last a line of \\x1e and JSON: {"ok": interpreter} or {"error": text}. Builders of one key wait for each
other; what one left half-built is removed. An environment is usable if, and only if, its marker file is there.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from typing import Any

MARKER = "falplan-environment.json"
UNKNOWN = "there is no version of "
"""What uv says of a package that an index does not have."""

PAUSES = (1.0, 3.0, 6.0, 10.0)
"""Seconds before an index is asked again for what it had when the requirements were locked: its servers learn of a release one by one."""

NOT_NEWS = (" + ", " - ", "Activate with:", "Creating virtual environment", "Using Python")


class Failed(Exception):
    """It can't be built; the text says why."""


def main() -> int:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = {"ok": build(request, time.monotonic() + float(request["timeout"]))}
    except (Failed, OSError) as exc:
        answer = {"error": str(exc)}
    say("\x1e" + json.dumps(answer))
    return 0


def say(line: str) -> None:
    """One line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def build(request: dict[str, Any], deadline: float) -> str:
    """The interpreter of the environment, which is built if it is not there."""
    base = os.path.join(request["root"], "environments")
    target = os.path.join(base, request["key"])
    python = os.path.join(target, "bin", "python")
    if os.path.exists(os.path.join(target, MARKER)):
        return python
    os.makedirs(base, mode=0o700, exist_ok=True)
    with open(os.path.join(base, f"{request['key']}.lock"), "ab") as lock:
        wait_for(lock, deadline)
        if not os.path.exists(os.path.join(target, MARKER)):
            make(request, base, target, deadline)
    return python


def wait_for(lock: Any, deadline: float) -> None:
    """Hold a lock; say so while somebody else builds."""
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                say("waiting for another builder of the same environment")
                told = True
            if time.monotonic() > deadline:
                raise Failed("another builder of the same environment did not end in time") from None
            time.sleep(0.05)


def make(request: dict[str, Any], base: str, target: str, deadline: float) -> None:
    """Build under a temporary name, move into place, mark."""
    for name in os.listdir(base):
        if name.startswith(f"{request['key']}.part"):
            shutil.rmtree(os.path.join(base, name), ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    part = os.path.join(base, f"{request['key']}.part-{os.getpid()}")
    try:
        fill(request, part, deadline)
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    mark(target, request)


def fill(request: dict[str, Any], part: str, deadline: float) -> None:
    """An environment at `part` with the locked packages."""
    uv = request["uv"]
    run(
        [uv, "venv", "--relocatable", "--no-project", "--python", interpreter(request, deadline), part],
        request,
        deadline,
    )
    lock = os.path.join(part, "requirements.lock")
    with open(lock, "w", encoding="utf-8") as file:
        file.write(request["lock"])
    hashes = ["--require-hashes"] if request["require_hashes"] else []
    if request.get(
        "wheels"
    ):  # they were checked where they were fetched, and on their way; one that was built there has no known hash
        hashes = ["--no-verify-hashes", "--offline", "--no-index", "--find-links", request["wheels"]]
    python = os.path.join(part, "bin", "python")
    install([uv, "pip", "sync", *hashes, "--python", python, lock], request, deadline)


def install(argv: list[str], request: dict[str, Any], deadline: float) -> None:
    """Run uv; again, past what it remembers of indexes, if one does not know a package that was locked a moment ago."""
    again = () if request.get("wheels") else PAUSES
    for pause in again:
        try:
            run(argv, request, deadline)
            return
        except Failed as exc:
            if UNKNOWN not in " ".join(str(exc).split()) or time.monotonic() + pause > deadline:
                raise
        say("the package index does not know all of it yet: asking again in %g s" % pause)
        time.sleep(pause)
        argv = [*argv[:3], "--refresh", *[part for part in argv[3:] if part != "--refresh"]]
    run(argv, request, deadline)


def interpreter(request: dict[str, Any], deadline: float) -> str:
    """The machine's own Python of the version wanted."""
    wanted = request["python"]
    own = "%d.%d.%d" % sys.version_info[:3]
    if own == wanted or own.startswith(wanted + "."):
        # Not by a link: an environment looks for its library beside what it is told, and may find another Python's there.
        return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    lines = run([request["uv"], "python", "find", "--system", "--no-project", wanted], request, deadline, quiet=True)
    return lines[-1]


def mark(target: str, request: dict[str, Any]) -> None:
    """The last step: what has this file is whole, even after a power cut."""
    os.sync()
    marker = os.path.join(target, MARKER)
    with open(marker + ".tmp", "w", encoding="utf-8") as file:
        json.dump({"protocol": 1, "key": request["key"], "python": request["python"]}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(marker + ".tmp", marker)


def run(argv: list[str], request: dict[str, Any], deadline: float, quiet: bool = False) -> list[str]:
    """Run uv, say its lines, and return them."""
    env = {**os.environ, **request["env"], "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    env.pop("VIRTUAL_ENV", None)
    parent = os.getpid()

    def die_with_parent() -> None:
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,
    )
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.setitimer(signal.ITIMER_REAL, max(0.1, deadline - time.monotonic()))
    lines = []
    with process:
        for line in process.stdout or ():
            line = line.rstrip()
            lines.append(line)
            if line and not quiet and not line.startswith(NOT_NEWS):
                say(line)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if process.returncode == -signal.SIGKILL and time.monotonic() >= deadline - 0.2:
        raise Failed("building took too long")
    if process.returncode != 0:
        raise Failed("\n".join(lines[-15:]) or f"uv ended with status {process.returncode}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
