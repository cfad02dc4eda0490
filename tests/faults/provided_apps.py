"""kill -9 of applies of ten apps that really run on this machine, at random instants; after each of them one apply converges."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from .sandbox import SERVER, Sandbox

APPS = 10


@dataclass
class Apps(Sandbox):
    """A project with ten apps, each a server of its own. `version` is in their code."""

    def write(self) -> None:
        apps = "".join(
            f"  app-{n}: {{command: [python3, app_{n}.py], files: [app_{n}.py], machine_type: XS, keep_alive: 300,"
            f' environment_variables: {{CALLS: "{self.calls}"}}, min_concurrency: {self.least}, startup_timeout: 120}}\n'
            for n in range(APPS)
        )
        (self.project / "falplan.yaml").write_text(f"version: 1\nproject: apps\nowner: acme\napps:\n{apps}")
        for n in range(APPS):
            (self.project / f"app_{n}.py").write_text(SERVER.replace("VERSION", str(self.version)))


def app_cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """20 kills, or one."""
    for number in range(20 if full else 1):
        seed = rng.randrange(2**32)
        yield f"kill of an apply of {APPS} apps {number} (seed {seed})", partial(kill_apps, random.Random(seed))


def kill_apps(rng: random.Random) -> None:
    """An apply is killed, now and then with the control plane; then the code is another one, and one apply converges."""
    box = Apps(least=rng.choice([0, 1]))
    try:
        process = box.start("apply", "--auto-approve")
        time.sleep(rng.uniform(0.5, 12))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if rng.random() < 0.3:
            box.kill_control_plane()
        if rng.random() < 0.5:
            box.version += 1
            box.write()
        box.check_converged()
        box.destroy()
    finally:
        box.clean()
