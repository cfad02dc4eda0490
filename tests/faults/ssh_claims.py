"""Two who want one host at the same time: two projects for its only GPU, and two copies of one control plane."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from falplan.core.errors import ExitCode
from tests.lab.fleet import Fleet, give_gpus, trace_of, wait_as_before
from tests.lab.namespaces import Lab
from tests.lab.networks import within

from .sandbox import Broken, Ran, Sandbox, wait_until

PATIENCE = 120.0


def parts(full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    for number in range(25 if full else 1):
        yield f"two projects race for a GPU {number}", two_projects
        yield f"two control planes race for a host {number}", two_planes


def two_projects(rng: random.Random) -> None:
    """One has it; the other one is told whose it is, runs nothing, and gets it once the first one is gone.

    Seen red with a ledger that is neither read for what others take nor checks for room: both had the GPU.
    """
    with contextlib.ExitStack() as cleaned:
        lab = cleaned.enter_context(Lab())
        cleaned.enter_context(lab.inside())
        host = lab.add("a")
        give_gpus(host, 1)
        before = trace_of(host)
        fleets = [Fleet(lab, [host], project=name, most=1) for name in ("one", "two")]
        for fleet in fleets:
            cleaned.callback(fleet.box.clean)
        ran = _together([f.box.start("apply", "--auto-approve") for f in fleets])
        won = [f for f, r in zip(fleets, ran, strict=True) if r.code == 0]
        lost = [(f, r) for f, r in zip(fleets, ran, strict=True) if r.code]
        if len(won) != 1 or len(won[0].running()) != 1 or lost[0][0].running():
            raise Broken(f"not one winner: {[(r.code, r.err) for r in ran]}, {[f.running() for f in fleets]}")
        if f"taken by project {won[0].project} (lineage " not in lost[0][1].err + lost[0][1].out:
            raise Broken(f"it does not say whose it is: {lost[0][1].out}\n{lost[0][1].err}")
        won[0].call(n=1)
        won[0].destroy()
        # What others take there is looked at every two seconds.
        wait_until(lambda: lost[0][0].run("plan").code == 0, 30, lambda: lost[0][0].run("plan"))
        lost[0][0].check_converged()
        lost[0][0].destroy()
        wait_as_before(host, before, won[0].calls.partition("/tmp/")[0])


def _together(processes: list[subprocess.Popen[str]]) -> list[Ran]:
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        ended.append(Ran(process.returncode, out, err))
    return ended


def two_planes(rng: random.Random) -> None:
    """A control plane and a copy of it, each on a computer of its own: one stays, the other one ends and says who acts there.

    What runs on the host is neither ended nor started twice. Seen red with a fence that accepts every epoch: both stayed.
    """
    with contextlib.ExitStack() as cleaned:
        lab = cleaned.enter_context(Lab())
        cleaned.enter_context(lab.inside())
        host, elsewhere = lab.add("a"), lab.add("b")
        give_gpus(host)
        fleet = Fleet(lab, [host], least=1, most=1)
        cleaned.callback(fleet.box.clean)
        fleet.apply()
        running = fleet.running()
        fleet.box.kill_control_plane()
        copy = _copy(fleet.box)
        cleaned.callback(copy.clean)
        first = fleet.box.start("serve")
        with within(elsewhere.network):  # the same port, on another computer
            time.sleep(rng.uniform(0, 1.5))
            second = copy.start("serve")
        serving = [first, second]
        try:
            wait_until(
                lambda: any(p.poll() is not None for p in serving),
                60,
                lambda: f"both act: {_log(fleet)}\n{copy.serve_log()}",
            )
            ended = next(p for p in serving if p.poll() is not None)
            stays = next(p for p in serving if p is not ended)
            out, err = ended.communicate(timeout=20)
            _check_loser(Ran(ended.returncode, out, err), fleet.box if ended is first else copy)
            time.sleep(5)  # several looks of the one that stays
            if stays.poll() is not None or fleet.running() != running:
                raise Broken(f"{fleet.running()}, before {running}; {_log(fleet)}\n{copy.serve_log()}")
        finally:
            for process in serving:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)


def _check_loser(ran: Ran, box: Sandbox) -> None:
    said = ran.out + ran.err + box.serve_log()
    if ran.code != ExitCode.LOCKED or "control plane" not in said or "data in /" not in said:
        raise Broken(f"the loser ended with {ran.code}\n{said}")


def _log(fleet: Fleet) -> str:
    return fleet.box.serve_log()


def _copy(box: Sandbox) -> Sandbox:
    """The whole of it on another computer, with that one's own ledger."""
    other = Sandbox()
    shutil.rmtree(other.folder)

    def sockets(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name).is_socket()]

    shutil.copytree(box.folder, other.folder, symlinks=True, ignore=sockets)
    shutil.rmtree(other.folder / "ledger", ignore_errors=True)
    return other
