"""Hosts, networks and sshds that fail under the whole product: while an apply is under way, and while requests are.

Whatever happens ends with a clear message or a run that went on, in time; no request is lost, nothing runs twice, and one apply later
nothing is astray.
"""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.lab.fleet import Fleet, Trace, a_fleet, trace_of, wait_as_before
from tests.lab.namespaces import LabHost

from .caller import Caller
from .sandbox import Broken, Ran, wait_until

Part = tuple[str, Callable[[random.Random], None]]

CLEAR = 180.0
"""Seconds within which a command ends, requests are answered, and a world that was hurt is whole again."""
CLEAN_CODES = (0, 1, 6, 7)
"""How an apply may end when a host fails under it: done, failed, refused, or the rollout failed. See docs/reference."""


@dataclass(frozen=True)
class Fault:
    """What happens to a host, for `seconds`, and how it is over. `delay` is that of its cable all the time, each way in seconds."""

    strike: Callable[[LabHost], None] = lambda host: None
    heal: Callable[[LabHost], None] = lambda host: None
    seconds: float = 0.0
    delay: float = 0.0


def refuse(host: LabHost) -> None:
    """Its sshd dies with every connection, and nothing listens any more."""
    host.filter("-I", "INPUT", "-p", "tcp", "--dport", "22", "--syn", "-j", "REJECT", "--reject-with", "tcp-reset")
    host.kill_connections()


def admit(host: LabHost) -> None:
    host.filter("-D", "INPUT", "-p", "tcp", "--dport", "22", "--syn", "-j", "REJECT", "--reject-with", "tcp-reset")


def lose_some(host: LabHost) -> None:
    """One packet of five is lost, on the way there."""
    host.filter(
        "-I", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random", "--probability", "0.2", "-j", "DROP"
    )


def lose_none(host: LabHost) -> None:
    host.filter(
        "-D", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random", "--probability", "0.2", "-j", "DROP"
    )


FAULTS = {
    "cut off for a minute": Fault(LabHost.cut, LabHost.join, 60.0),
    "silent for half a minute": Fault(LabHost.drop, LabHost.undrop, 30.0),
    "loses a fifth": Fault(lose_some, lose_none, 20.0),
    "half a second away": Fault(delay=0.25),
    "without sshd": Fault(refuse, admit, 10.0),
    "switched off and on": Fault(LabHost.power_off, LabHost.boot, 3.0),
}
SHORT = ("without sshd", "switched off and on")
"""Those of which a bounded run goes through one in mid-apply. In mid-request it is one of all."""


def parts(rng: random.Random, full: bool) -> Iterator[Part]:
    """Ten rounds of all, and machines that are switched off and on at fifty instants; or one of each kind."""
    for number in range(10 if full else 1):
        for name in FAULTS if full else (rng.choice([*FAULTS]),):
            yield f"a host is {name} in mid-request {number}", partial(in_mid_request, fault=FAULTS[name])
        for name in FAULTS if full else (rng.choice(SHORT),):
            yield f"a host is {name} in mid-apply {number}", partial(in_mid_apply, fault=FAULTS[name])
    for number in range(30 if full else 0):
        yield f"a host is switched off and on, once more {number}", partial(in_mid_apply, fault=FAULTS[SHORT[1]])


# -- in mid-apply ---------------------------------------------------------------------------------------------------------


def in_mid_apply(rng: random.Random, fault: Fault) -> None:
    """A first deploy or a new version, and a host that fails at some instant of it."""
    with a_fleet(("a", "b", "c"), delays={"a": fault.delay}, least=2) as fleet:
        before = traces(fleet)
        first = rng.random() < 0.5
        if not first:
            fleet.apply()
            fleet.version = 2
            fleet.write()
        ran = struck(fleet, fault, fleet.hosts[0], rng.uniform(0.0, 5.0 if first else 2.5))
        check_clear(ran, "a")
        check_whole(fleet, before)


def struck(fleet: Fleet, fault: Fault, host: LabHost, instant: float) -> Ran:
    """What an apply came to while a host failed, and got well again."""
    process = fleet.box.start("apply", "--auto-approve")
    time.sleep(instant)
    fault.strike(host)
    healing = threading.Timer(fault.seconds, fault.heal, (host,))
    healing.start()
    try:
        out, err = process.communicate(timeout=CLEAR + fault.seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise Broken(f"apply hangs: struck after {instant:.2f} s\n{out}\n{err}\n{fleet.box.serve_log()}") from None
    finally:
        healing.join()
    print(f"    struck after {instant:.2f} s: exit {process.returncode}", flush=True)
    return Ran(process.returncode, out, err)


def check_clear(ran: Ran, name: str) -> None:
    """It ended as commands end; and if it failed, it says so, and on which host."""
    if ran.code not in CLEAN_CODES or "Traceback" in ran.out + ran.err:
        raise Broken(f"exit {ran.code}\n{ran.out}\n{ran.err}")
    places = (f"lab.{name}", f"lab/{name}", f"{name} (root@", f"(on {name})")
    if ran.code and ("Error: " not in ran.err or not any(place in ran.err for place in places)):
        raise Broken(f"exit {ran.code}, and it does not say where\n{ran.out}\n{ran.err}")


# -- in mid-request -------------------------------------------------------------------------------------------------------


def in_mid_request(rng: random.Random, fault: Fault) -> None:
    """Requests are under way and waiting when the host of their runner fails; others come meanwhile. Each gets one result.

    Seen red with a hand that stayed on a host whose connection had been cut off.
    """
    with a_fleet(("a", "b", "c"), delays={"a": fault.delay}, slots=3) as fleet:
        before = traces(fleet)
        fleet.apply()
        [row] = fleet.rows()
        caller = Caller(fleet.box, "acme/app")
        ids = [caller.submit(n, sleep=rng.uniform(0, 4)) for n in range(12)]
        wait_until(lambda: any(i and caller.status(i) == "IN_PROGRESS" for i in ids), 30, fleet.rows)
        host = next(h for h in fleet.hosts if h.name == row["machine"].partition("/")[2])
        time.sleep(rng.uniform(0, 2))
        fault.strike(host)
        try:
            begun = time.monotonic()
            while time.monotonic() - begun < fault.seconds:
                ids.append(caller.submit(len(ids), sleep=rng.uniform(0, 1)))
                time.sleep(1)
        finally:
            fault.heal(host)
        check_answered(fleet, caller, ids)
        check_whole(fleet, before)


def check_answered(fleet: Fleet, caller: Caller, ids: list[str | None]) -> None:
    """All were accepted, and each of them has exactly one result, a good one."""
    accepted = [i for i in ids if i is not None]
    caller.finish(accepted, CLEAR)
    broken = fleet.history(caller.record.path)
    if broken or len(accepted) != len(ids):
        raise Broken(f"{len(ids) - len(accepted)} of {len(ids)} refused; {broken}\n{fleet.box.serve_log()}")
    bad = caller.failures()
    if bad:
        raise Broken(f"requests that failed: {bad}\n{fleet.box.serve_log()}")


# -- after it -------------------------------------------------------------------------------------------------------------


def traces(fleet: Fleet) -> dict[str, Trace]:
    return {host.name: trace_of(host) for host in fleet.hosts}


def _is_reached(host: LabHost) -> bool:
    try:
        socket.create_connection((host.address, 22), 5).close()
    except OSError:
        return False
    return True


def _is_destroyed(fleet: Fleet) -> bool:
    """Whether `destroy` came to its end. A host that was away for a lease is asked by the control plane when its connection is made anew:
    until then `destroy` says that it does not answer, and to try again."""
    ran = fleet.box.run("destroy", "--auto-approve")
    if ran.code and ("Traceback" in ran.err or "it has not answered for" not in ran.err):
        raise Broken(f"exit {ran.code}\n{ran.out}\n{ran.err}")
    return ran.code == 0


def check_whole(fleet: Fleet, before: dict[str, Trace]) -> None:
    """One apply later nothing is twice or astray and all works; and after the end nothing is left on any host."""
    for (
        host
    ) in fleet.hosts:  # whoever asked for its way before it was back may be told a moment later that there is none
        wait_until(partial(_is_reached, host), 30, lambda: "its port can't be reached")
    fleet.check_converged()
    fleet.call(n=-1)
    wait_until(partial(_is_destroyed, fleet), 60, fleet.box.serve_log)
    for host in fleet.hosts:
        wait_as_before(host, before[host.name], fleet.calls)
