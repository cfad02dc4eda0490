"""Runs the fault suites: bounded by time, reproducible by seed, adding up over runs.

`python -m tests.faults.run --suite all --minutes 15 --seed 1`. With `--full` the counts are those of a release, and totals
over all runs are kept in .cache/torture.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests import leftovers

from . import bought, clocks, disk, power, signals, ssh, together
from .cases import Case, random_kills, rounds_of_points
from .drifts import drift_cases
from .pauses import pause_cases
from .provided_apps import app_cases
from .provided_kills import fifty_cases, kill_cases
from .provided_races import race_cases
from .raises import raise_cases
from .sandbox import Broken, Missing


def _provided(rng: random.Random, full: bool) -> Iterator[Case]:
    """Kills of applies of many resources, and two applies at once, with state in each backend."""
    for cases in (kill_cases, race_cases, app_cases):
        yield from (Case(name, run) for name, run in cases(rng, full))


def _machines(rng: random.Random, full: bool) -> Iterator[Case]:
    """Random histories of wishes, worlds and faults: 10,000, or 300; and a few with state in S3, where each of them lasts."""
    for examples, cases, options in ((250, 40, ()), (20, 5, ("--s3",))) if full else ((100, 3, ()), (10, 1, ("--s3",))):
        for number in range(cases):
            seed = rng.randrange(2**32)
            argv = ("--examples", str(examples), "--seed", str(seed), *options)
            yield Case(f"random histories {number}: {' '.join(argv)}", partial(_machine, argv))


def _machine(argv: Sequence[str]) -> None:
    """In a process of its own, as it patches modules."""
    ran = subprocess.run([sys.executable, "-m", "tests.engine.machine", *argv], capture_output=True, text=True)
    if ran.returncode:
        raise Broken(ran.stderr[-6000:])


Suite = Callable[[random.Random, bool], Iterator[Case]]


def _cases(suite: Callable[[random.Random, bool], Iterator[tuple[str, Callable[[], object]]]]) -> Suite:
    return lambda rng, full: (Case(name, run) for name, run in suite(rng, full))


SUITES: dict[str, Suite] = {
    "provided": _provided,
    "two-applies": _cases(together.cases),
    "hosts": _cases(fifty_cases),
    "bought": _cases(bought.cases),
    "ssh": _cases(ssh.cases),
    "pauses": _cases(pause_cases),
    "disk": _cases(disk.cases),
    "power": _cases(power.cases),
    "signals": _cases(signals.cases),
    "clocks": _cases(clocks.cases),
    "drift": drift_cases,
    "machine": _machines,
    "raises": raise_cases,
    "points": rounds_of_points,
    "kills": random_kills,
}
"""In the order in which they run: those whose bounded form is short come first."""
ENDS = {"points": 0.85, "kills": 1.0}
"""The part of a bounded run's time after which a suite begins no other case; for the short ones it is half."""

TOTALS = Path(__file__).parents[2] / ".cache" / "torture.json"


@dataclass
class Counts:
    """How many cases ended how."""

    passed: int = 0
    failed: int = 0
    left: int = 0


LEAST = 40
"""Failpoints that a bounded run has to get through; which ones, its seed decides. `--full` gets through all of them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=["all", *SUITES], default="all")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--workers", type=int, default=3, help="they wait more than they compute")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose names match this regular expression")
    options = parser.parse_args()
    names = list(SUITES) if options.suite == "all" else [options.suite]
    print(f"faults: suites {', '.join(names)}, seed {options.seed}, at most {options.minutes:g} minutes", flush=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    leftovers.mark()
    before = leftovers.take()
    begun, seconds = time.monotonic(), options.minutes * 60
    total = Counts()
    for name in names:
        deadline = begun + seconds * (ENDS.get(name, 0.5) if len(names) > 1 else 1.0)
        if name == "points" and len(names) > 1:
            # A case of the suites before may have lasted: there is time for as many points as have to be reached.
            deadline = max(deadline, time.monotonic() + seconds * 0.3)
        rng = random.Random(f"{options.seed}/{name}")
        cases = (case for case in SUITES[name](rng, options.full) if re.search(options.only, case.name))
        counts = run_suite(name, cases, deadline, options.workers)
        print(
            f"{name}: {counts.passed} passed, {counts.failed} failed, {counts.left} not begun for lack of time",
            flush=True,
        )
        if options.full:
            add_up(name, options.seed, counts)
        total.passed += counts.passed
        total.failed += counts.failed
        if name == "points" and counts.passed < min(LEAST, counts.passed + counts.left):
            print(f"points: fewer than {LEAST} failpoints were reached; give it more MINUTES", flush=True)
            total.failed += 1
    left = leftovers.left_since(before)
    if left:
        print("left behind:", *left, sep="\n  ", flush=True)
        total.failed += 1
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed or not total.passed else 0


def run_suite(name: str, cases: Iterable[Case], deadline: float, workers: int) -> Counts:
    """Run cases of a suite until they or the time are used up."""
    counts = Counts()

    def one(case: Case) -> None:
        if time.monotonic() > deadline:
            counts.left += 1
            return
        begun = time.monotonic()
        try:
            case.run()
        except Missing as exc:
            if exc.installable and os.environ.get("CI") == "true":
                counts.failed += 1
            print(f"skip {name}: {case.name}: {exc}", flush=True)
        except Exception:
            counts.failed += 1
            print(f"FAILED {name}: {case.name}\n{traceback.format_exc()}", flush=True)
        else:
            counts.passed += 1
            print(f"  ok {name}: {case.name} ({time.monotonic() - begun:.1f} s)", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, cases))
    return counts


def add_up(name: str, seed: int, counts: Counts) -> None:
    """Totals over all runs on this checkout: with n passes and no failure, the true rate is below 3/n (95 %)."""
    TOTALS.parent.mkdir(exist_ok=True)
    totals = json.loads(TOTALS.read_text()) if TOTALS.exists() else {}
    suite = totals.setdefault(name, {"passed": 0, "failed": 0, "seeds": []})
    suite["passed"] += counts.passed
    suite["failed"] += counts.failed
    suite["seeds"].append(seed)
    TOTALS.write_text(json.dumps(totals, indent=1))
    print(
        f"{name}, all runs: {suite['passed']} passed, {suite['failed']} failed, {len(suite['seeds'])} seeds", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
