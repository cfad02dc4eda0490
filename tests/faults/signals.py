"""An apply that is sent a signal, or two, at a random instant, or whose reader goes away: nothing is lost, the lock is free, it converges."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from tests.faults.cheap import Cheap, cheap, ended, no_bug
from tests.faults.sandbox import Broken, wait_until

KINDS = ("INT", "INT twice", "TERM", "HUP", "reader gone")
CODES = {
    "INT": {0, 130, -signal.SIGINT},
    "INT twice": {0, 130, -signal.SIGINT},
    "TERM": {0, 143, -signal.SIGTERM},
    "HUP": {0, 130, -signal.SIGHUP},
    "reader gone": {0},
}
"""How it may end: it was done by then; it was stopped; or the signal came before there was anything to save."""


def one(kind: str, rng: random.Random) -> None:
    with cheap(apps=6) as box:
        process = box.start("apply", "--auto-approve", "--parallelism", "2", FALPLAN_TEST_PACE="0.1")
        try:
            _until_somewhere(box, process, rng)
            _send(process, kind, rng)
            ran = ended(process)
        finally:
            if process.poll() is None:
                process.kill()
        if (
            ran.code != -signal.SIGINT
        ):  # else it came while the test's own stand-in was imported, which does not mind a traceback
            no_bug(ran)
        if ran.code not in CODES[kind]:
            raise Broken(f"exit {ran.code} after {kind}\n{ran.out}\n{ran.err}")
        holder = box.opened().store.holder()
        if holder is not None:
            raise Broken(f"the lock is held by {holder}")
        box.check_nothing_lost()
        if (
            kind != "INT twice"
            and ran.code in (130, 143)
            and box.lines()
            and any(r.intent for r in box.read().resources.values())
        ):
            raise Broken(f"a graceful end left an operation open\n{ran.err}")
        box.check_converges()


def _until_somewhere(box: Cheap, process: subprocess.Popen[str], rng: random.Random) -> None:
    """One time in five anywhere in the life of the process; else while it is at work."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 1.5))
        return
    steps = rng.randint(1, 13)
    wait_until(lambda: len(box.lines()) >= steps or process.poll() is not None, 90)
    time.sleep(rng.uniform(0, 0.1))


def _send(process: subprocess.Popen[str], kind: str, rng: random.Random) -> None:
    if kind == "reader gone":
        assert process.stdout is not None
        assert process.stderr is not None
        for stream in (process.stdout, process.stderr):
            stream.close()
        process.stdout, process.stderr = None, None
        return
    process.send_signal(getattr(signal, f"SIG{kind.partition(' ')[0]}"))
    if kind.endswith("twice"):
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGINT)


def cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Whole: 300; bounded: one of each kind."""
    for number in range(300 if full else len(KINDS)):
        seed, kind = rng.randrange(2**32), KINDS[number % len(KINDS)]
        yield f"{kind}, {number} (seed {seed})", lambda k=kind, s=seed: one(k, random.Random(s))  # type: ignore[misc]
