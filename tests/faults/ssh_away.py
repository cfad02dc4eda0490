"""Machines that say nothing for long, that are switched off, and such as are far away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh import SshShell
from falplan.sdk.ssh.connect import SILENCE
from falplan.sdk.ssh.link import Link
from falplan.sdk.values import Command
from tests.lab.loopback import CREDENTIALS
from tests.lab.namespaces import Lab, LabHost
from tests.lab.networks import run

from .sandbox import Broken, wait_until
from .ssh_client import Watched
from .ssh_inside import HUNG, check_answers, result, start
from .ssh_uploads import check_whole, noise

CLEAR = 180.0
"""Seconds within which a machine that was switched off is reported."""


def parts() -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    yield "a host is switched off and on in mid-command", power_cut
    yield "a host is far away", far_away
    yield "nobody asks for anything for long", quiet
    yield "a host is not told that it was left", half_open


def quiet(rng: random.Random) -> None:
    """A connection that is not used for long, and then a command that says nothing for long: neither is a dead host.

    Seen red when silence was counted from the last thing heard, asked for or not.
    """
    with Lab() as lab, lab.inside():
        shell = SshShell(lab.add("h1").target(), CREDENTIALS)
        link = shell.link
        time.sleep(SILENCE + rng.uniform(1, 3))
        output = shell.run(Command(("sleep", f"{SILENCE / 2:g}")))
        if output.code or shell.link is not link:
            raise Broken(f"a quiet host was taken for a dead one: {link.lost}")
        check_answers(shell)


def power_cut(rng: random.Random) -> None:
    """A command under way is reported as interrupted and is not begun again, and the same shell works once the machine is back.

    Seen red when a command whose connection was lost was simply begun again.
    """
    with Lab() as lab:
        host = lab.add("h1")
        for jobs, back in (("", False), ("/var/tmp/jobs", True), ("/var/tmp/jobs", False)):
            shell = SshShell(host.target(), CREDENTIALS, jobs=jobs)
            _switch_off(lab, host, shell, back, rng.uniform(0, 2))


def _switch_off(lab: Lab, host: LabHost, shell: SshShell, back: bool, instant: float) -> None:
    counter = host.disk / "root/begun"
    counter.unlink(missing_ok=True)
    under_way = start(lab, lambda: shell.run(Command(("sh", "-c", "echo x >> /root/begun; sleep 600"), timeout=900)))
    wait_until(counter.exists, 20, lambda: f"it is not begun: {under_way}")
    time.sleep(instant)
    host.power_off()
    off = time.monotonic()
    if back:
        time.sleep(instant)
        host.boot()
    try:
        failure = under_way.exception(CLEAR)
    except TimeoutError:
        raise Broken(f"a machine without power is not reported within {CLEAR} s") from None
    print(f"    without power: after {time.monotonic() - off:.1f} s: {failure}", flush=True)
    if not isinstance(failure, Unreachable) or host.name not in str(failure):
        raise Broken(f"a machine without power is reported as {failure!r}")
    if back and "restarted" not in str(failure):
        raise Broken(f"it does not say that the machine was restarted: {failure}")
    if not back:
        host.boot()
    result(start(lab, lambda: check_answers(shell)), HUNG, "a command after the machine is back")
    if counter.read_text() != "x\n":
        raise Broken("the command was begun again")


def far_away(rng: random.Random) -> None:
    """All works with a host whose answers take a second: 500 ms each way."""
    with Lab() as lab:
        host = lab.add("h1", delay=0.5)
        shell = SshShell(host.target(), CREDENTIALS, jobs="/var/tmp/jobs")
        tree = noise(8 << 20)
        for name, work in {
            "connect": lambda: _link(shell),
            "run": lambda: shell.run(Command(("true",))),
            "upload": lambda: shell.put_archive(Watched(tree.archive), "/opt/trees/new", tree.digest),
        }.items():
            begun = time.monotonic()
            result(start(lab, work), HUNG, name)
            print(f"    far away: {name} took {time.monotonic() - begun:.1f} s", flush=True)
        check_whole(host, "new", tree)
        result(start(lab, lambda: check_answers(shell)), HUNG, "a command")


def _link(shell: SshShell) -> Link:
    return shell.link


def half_open(rng: random.Random) -> None:
    """Whoever connected gives up while the cable is out, and the machine is never told: what was started there ends all the same.

    Seen red with a hand, and with a forwarding client's command, that only waited for the end of their input.
    """
    with Lab() as lab:
        host = lab.add("h1")
        with lab.inside():  # the system tells of an end for minutes, unless it is told to be brief
            Path("/proc/sys/net/ipv4/tcp_orphan_retries").write_text("1")
        for reaching in (False, True):
            shell = SshShell(host.target(), CREDENTIALS)
            result(start(lab, lambda shell=shell, reaching=reaching: _go_there(shell, reaching)), HUNG, "connecting")  # type: ignore[misc]
            time.sleep(rng.uniform(1, 2))  # so that nothing is under way, of which either side would wait for a sign
            host.cut()
            result(start(lab, shell.close), HUNG, "giving up")
            wait_until(lambda: not _ending(lab), 30, lambda: _ending(lab))
            host.join()
            wait_until(lambda: len(host.processes()) == 2, 90, lambda: f"left there: {host.processes()}")


def _ending(lab: Lab) -> str:
    """Connections of the lab that the system still wants to end."""
    with lab.inside():
        return run("ss", "-Htn", "state", "connected", "dport", "22").stdout


def _go_there(shell: SshShell, reaching: bool) -> None:
    if reaching:
        shell.reach("tcp:127.0.0.1:9")
    else:
        shell.run(Command(("true",)))
