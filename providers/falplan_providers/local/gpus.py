"""The machine's NVIDIA GPUs, as nvidia-smi tells. Never guesses: what can't be read is left out and noted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from falplan.sdk.values import Gpu

_FIELDS = "index,uuid,name,memory.total"
MARKER = b"FALPLAN_RUNNER="


def detect_gpus() -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """(GPUs sorted by index, notes for people). No driver or no device gives no GPUs and a note."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), ()
    code, text = _run([program, f"--query-gpu={_FIELDS}", "--format=csv,noheader"])
    if code == 6:
        return (), ()
    if code != 0:
        return (), (f"nvidia-smi failed ({code}): {' '.join(text.split())[:200]}",)
    gpus, notes = [], []
    busy, unknown = _busy(program)
    if unknown:
        notes.append(f"which GPUs are busy is not known, so none is offered: {unknown}")
    for line in filter(None, map(str.strip, text.splitlines())):
        gpu = parse_gpu(line, busy)
        if gpu and unknown:
            gpu = replace(gpu, busy=True)
        if gpu is None:
            notes.append(f"a GPU is left out, nvidia-smi said: {line[:200]}")
        else:
            gpus.append(gpu)
    return tuple(sorted(gpus, key=lambda g: g.index)), tuple(notes)


def parse_gpu(line: str, busy: Iterable[str] = ()) -> Gpu | None:
    """One line of `index, uuid, name, memory.total`; None if it has no such form, as for a lost GPU."""
    parts = [p.strip() for p in line.split(",")]
    if len(parts) != 4 or not parts[0].isdigit() or not parts[1].startswith("GPU-"):
        return None
    size, _, unit = parts[3].partition(" ")
    # GPUs that share the machine's memory print [N/A]: 0 means not known.
    vram = int(size) * 1024**2 if size.isdigit() and unit in ("MiB", "") else 0
    return Gpu(int(parts[0]), parts[1], parts[2], vram, parts[1] in set(busy))


def _busy(program: str) -> tuple[set[str], str]:
    """UUIDs of GPUs on which a process computes that no runner started; and why that can't be found out, if so."""
    code, text = _run([program, "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"])
    if code != 0:
        return set(), f"nvidia-smi failed ({code}): {' '.join(text.split())[:200]}"
    busy = set()
    for line in text.splitlines():
        uuid, _, pid = (p.strip() for p in line.partition(","))
        if uuid.startswith("GPU-") and pid.isdigit() and not _is_ours(int(pid)):
            busy.add(uuid)
    return busy, ""


def _is_ours(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return any(v.startswith(MARKER) for v in environment.split(b"\0"))


def _run(argv: list[str]) -> tuple[int, str]:
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, errors="replace", timeout=20, env=env)
    except subprocess.TimeoutExpired:
        return 124, "it did not answer within 20 s"
    except OSError as exc:
        return 126, str(exc)
    return done.returncode, done.stdout + done.stderr
