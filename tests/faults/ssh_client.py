"""A client by SSH in a process of its own, which can be killed and measured. `python -m tests.faults.ssh_client REQUEST`, in JSON.

`{"do": "put", "target", "archive", "folder", "digest", "die_at", "die_after", "sleep"}` uploads, and kills itself so many seconds after it
has read so many bytes of what it sends, or stops itself; `{"do": "run", "target", "argv", "stream"}` runs a command, and prints how much memory it took.
`target` is what `Target` takes. After each line that it prints it waits for one.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from falplan.sdk.ssh import SshShell, Target
from falplan.sdk.ssh.link import LOADER
from falplan.sdk.values import Command
from tests.lab.loopback import CREDENTIALS


class Watched(io.BytesIO):
    """An archive that tells how much of it was sent, and calls `moment` once that is `at` bytes."""

    def __init__(self, content: bytes, at: int = 0, moment: Callable[[], object] = lambda: None) -> None:
        super().__init__(content)
        self.at, self.moment = at, moment
        self.sent = 0

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(size)
        before, self.sent = self.sent, self.sent + len(chunk)
        if before < self.at <= self.sent:
            self.moment()
        return chunk


def after(seconds: float, act: Callable[[], object]) -> Callable[[], object]:
    """Something to call that acts so many seconds later; at once, before anything else, with none."""
    if not seconds:
        return act
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    return timer.start


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def put(shell: SshShell, request: Mapping[str, Any]) -> Any:
    stream = Watched(
        Path(request["archive"]).read_bytes(),
        request["die_at"],
        after(request["die_after"], sleep if request["sleep"] else die),
    )
    shell.put_archive(stream, request["folder"], request["digest"])
    return {"sent": stream.sent}


def run(shell: SshShell, request: Mapping[str, Any]) -> Any:
    """Runs it, and tells the lengths of what came back, and by how many bytes this process's memory grew at most."""
    shell.run(Command(("true",)))
    say({"ready": True})
    before, heard = peak(os.getpid()), 0

    def hear(line: str) -> None:
        nonlocal heard
        heard += len(line)

    output = shell.run(Command(tuple(request["argv"]), timeout=600), hear if request["stream"] else None)
    grown = peak(os.getpid()) - before
    return {"code": output.code, "out": len(output.stdout), "err": len(output.stderr), "heard": heard, "grown": grown}


def say(answer: Mapping[str, Any]) -> None:
    """Print it, and wait until whoever started this process has looked."""
    print(json.dumps(answer), flush=True)
    sys.stdin.readline()


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def is_hand(pid: int) -> bool:
    """Whether a process is falplan's hand."""
    try:
        return f"\0{LOADER}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def main(text: str) -> None:
    request = json.loads(text)
    target = {**request["target"], "trusted": tuple(request["target"]["trusted"])}
    shell = SshShell(Target(**target), CREDENTIALS, jobs=request.get("jobs", ""))
    say({"put": put, "run": run}[request["do"]](shell, request))
    shell.close()


if __name__ == "__main__":
    main(sys.argv[1])
