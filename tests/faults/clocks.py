"""A clock that is ten years off, or jumps by two hours in mid-apply: the same result, and no lock is stolen or lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from tests.faults.cheap import Cheap, cheap, ended, no_bug
from tests.faults.sandbox import Broken, wait_until
from tests.faults.together import _environ, backends, section
from tests.stores.state.servers import KEYS

YEARS, HOURS = timedelta(days=3652).total_seconds(), timedelta(hours=2).total_seconds()
JUMPS = {
    "ten years ahead": (YEARS, YEARS),
    "ten years behind": (-YEARS, -YEARS),
    "two hours forward in mid-apply": (0.0, HOURS),
    "two hours back in mid-apply": (0.0, -HOURS),
}
"""The clock's error before, and from the midst of an apply on."""
SKEWED = str(Path(__file__).with_name("skewed"))


def one(backend: str, before: float, after: float) -> None:
    """An apply is held in its midst while the clock jumps; another one is refused meanwhile; then both have what they would have had."""
    keys = KEYS if backend == "s3" else {}
    with section(backend) as place, _environ(keys), cheap(apps=3, state=place(0), more=dict(keys)) as box:
        clock = box.folder / "clock"
        clock.write_text(str(before))
        path = f"{SKEWED}:{box.environ().get('PYTHONPATH', '')}"
        box.more |= {"FALPLAN_TEST_CLOCK": str(clock), "PYTHONPATH": path, "FALPLAN_STATE_LEASE": "30"}
        process = box.start("apply", "--auto-approve", FALPLAN_TEST_GATE=str(box.gate), FALPLAN_TEST_FREE="1")
        try:
            wait_until(lambda: len(box.lines()) >= 3 or process.poll() is not None, 90, lambda: f"{box.lines()}")
            clock.write_text(str(after))
            other = box.run(*box.wish("other"), "apply", "--auto-approve")
            planned = box.run("plan")
            box.gate.touch()
            ran = ended(process)
        finally:
            if process.poll() is None:
                process.kill()
        _check(box, [ran.code, other.code, planned.code], ran.err + other.err + planned.err)
        for each in (ran, other, planned):
            no_bug(each)


def _check(box: Cheap, codes: list[int], err: str) -> None:
    if codes != [0, 4, 0]:
        raise Broken(f"the apply, another one beside it, a plan: {codes}, and not [0, 4, 0]\n{err}")
    if len({line["pid"] for line in box.lines()}) != 1:
        raise Broken(f"two acted: {box.lines()}")
    box.check_converges()
    if len(box.living()) != 4:
        raise Broken(f"{sorted(box.living())}: not as with a good clock")


def cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Whole: every jump on every backend; bounded: two of them."""
    found = [(b, name) for b in backends() for name in JUMPS]
    rng.shuffle(found)
    for backend, name in found if full else found[:2]:
        yield f"{name}, state in {backend}", lambda b=backend, j=JUMPS[name]: one(b, *j)  # type: ignore[misc]
