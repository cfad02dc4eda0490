"""Several applies at once, each a process of its own with the real command line and a real store: local files, S3 (moto), PostgreSQL."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.cheap import Cheap, cheap, ended, no_bug
from tests.faults.sandbox import Broken, Ran, wait_until
from tests.stores.state.servers import KEYS, make_bucket, postgres_server, s3_server

AT_A_TIME = 10
"""Trials that share a server."""


@contextmanager
def section(backend: str) -> Iterator[Callable[[int], str]]:
    """What a spec says under `state:`, for each of several projects; its server runs meanwhile."""
    match backend:
        case "local":
            yield lambda number: "{backend: local}"
        case "s3":
            with s3_server() as url:
                make_bucket(url, "states")
                at = f"bucket: states, endpoint_url: '{url}', region: us-east-1"
                yield lambda number: f"{{backend: s3, {at}, key: p{number}/state.json}}"
        case _:
            with postgres_server() as server:
                yield lambda number: f"{{backend: postgres, dsn: '{server.dsn()}', table: p{number}.state}}"


def backends() -> list[str]:
    """Those that this machine can run."""
    if shutil.which("initdb") is None:
        for found in sorted(Path("/usr/lib/postgresql").glob("*/bin")):  # as in tests/conftest.py
            os.environ["PATH"] = f"{found}:{os.environ['PATH']}"
    return ["local", "s3", *(["postgres"] if shutil.which("initdb") else [])]


def begun(box: Cheap, arguments: Sequence[Sequence[str]], rng: random.Random) -> list[subprocess.Popen[str]]:
    """Processes that are all ready, and told to go within a few milliseconds, in any order."""
    processes = [box.start(*args, FALPLAN_TEST_READY="1", FALPLAN_TEST_GATE=str(box.gate)) for args in arguments]
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise Broken(f"it never got ready: {ended(process)}")
    order = list(processes)
    rng.shuffle(order)
    for process in order:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(rng.uniform(0, 0.03))
    return processes


def two_applies(box: Cheap, rng: random.Random) -> None:
    """Two, with different wishes. One ends with exit code 4 while the other is held in the midst of its work; what that wanted is there."""
    names = ["ana", "ben"]
    processes = begun(box, [(*box.wish(n), "apply", "--auto-approve") for n in names], rng)
    try:
        wait_until(lambda: any(p.poll() is not None for p in processes), 60, lambda: f"both are at work: {box.lines()}")
        box.gate.touch()
        ran = [ended(p) for p in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    for each in ran:
        no_bug(each)
    if sorted(r.code for r in ran) != [0, 4]:
        raise Broken(f"exit codes {[r.code for r in ran]}\n{[r.err for r in ran]}")
    winner = next(n for n, r in zip(names, ran, strict=True) if r.code == 0)
    if len({line["pid"] for line in box.lines()}) != 1:
        raise Broken(f"both acted: {box.lines()}")
    check_agrees(box, winner)
    planned = box.run(*box.wish(winner), "plan", "--detailed-exitcode")
    if planned.code != 0:
        raise Broken(f"the plan of the one that succeeded is not empty: {planned.code}\n{planned.out}")


def check_agrees(box: Cheap, by: str) -> None:
    """State is whole, and says what the world shows: what one of them wanted."""
    box.check_made_once()
    state, there = box.read(), box.living()
    if set(state.resources) != set(there):
        raise Broken(f"state has {sorted(state.resources)}, the world {sorted(there)}")
    for address, recorded in state.resources.items():
        if recorded.inputs != there[address]["inputs"]:
            raise Broken(f"{address}: recorded is not what was made")
        if address.startswith("app.") and there[address]["inputs"]["settings"]["tags"] != {"by": by}:
            raise Broken(f"{address} is not as {by} wanted it: {there[address]}")


def trials(backend: str, rng: random.Random, count: int) -> None:
    """So many trials of two applies, on one server."""
    keys = KEYS if backend == "s3" else {}
    with section(backend) as place:
        for number in range(count):
            with _environ(keys), cheap(apps=3, state=place(number), more=dict(keys)) as box:
                two_applies(box, rng)


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """The credentials of a bucket, for what this process itself reads. They are the same for all, and stay."""
    os.environ.update(values)
    yield


def many_applies(rng: random.Random, processes: int = 8) -> None:
    """Some give up at once, some wait: never two at work, who gives up exits 4, and everybody else's work is there in the end."""
    with cheap(apps=3) as box:
        impatient = processes - 3
        arguments = [
            (*box.wish(f"n{n}"), "apply", "--auto-approve", "--lock-timeout", "0" if n < impatient else "200")
            for n in range(processes)
        ]
        running = begun(box, arguments, rng)
        try:
            # Whoever has the lock is held at the gate until all who do not wait have given up.
            wait_until(lambda: _over(running[:impatient]) >= impatient - 1, 90, lambda: f"{_over(running)} gave up")
            wait_until(lambda: _over(running[:impatient]) == impatient or bool(box.lines()), 90)
            box.gate.touch()
            ran = [ended(p, 240) for p in running]
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
        _check_many(box, ran, impatient)


def _over(processes: Sequence[subprocess.Popen[str]]) -> int:
    return sum(p.poll() is not None for p in processes)


def _check_many(box: Cheap, ran: list[Ran], impatient: int) -> None:
    for each in ran:
        no_bug(each)
    codes = [r.code for r in ran]
    done = [n for n, code in enumerate(codes) if code == 0]
    if (
        set(codes) - {0, 4}
        or any(code != 0 for code in codes[impatient:])
        or len(done) > processes_at_most(ran, impatient)
    ):
        raise Broken(f"exit codes {codes}\n{[r.err for r in ran]}")
    box.check_one_at_a_time()
    by = {line["inputs"]["settings"]["tags"]["by"] for line in box.lines() if line["address"].startswith("app.")}
    if by != {f"n{n}" for n in done}:
        raise Broken(f"work of {by}, but {done} succeeded")
    last = next(line for line in reversed(box.lines()) if line["address"].startswith("app."))
    check_agrees(box, last["inputs"]["settings"]["tags"]["by"])


def processes_at_most(ran: list[Ran], impatient: int) -> int:
    """How many may have got the lock: all who wait, and one of those who do not."""
    return len(ran) - impatient + 1


def cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Whole: 50 trials of two applies per backend, 50 rounds of eight."""
    for backend in backends():
        for part in range(50 // AT_A_TIME if full else 1):
            seed, count = rng.randrange(2**32), AT_A_TIME if full else 3
            name = f"two applies on {backend}, {count} trials, part {part} (seed {seed})"
            yield name, lambda b=backend, s=seed, c=count: trials(b, random.Random(s), c)  # type: ignore[misc]
    for number in range(50 if full else 2):
        seed = rng.randrange(2**32)
        yield f"eight applies, round {number} (seed {seed})", lambda s=seed: many_applies(random.Random(s))  # type: ignore[misc]
