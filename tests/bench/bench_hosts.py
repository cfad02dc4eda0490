"""falplan beside pyinfra and ansible-core on real sshds of this machine: a command on each, a bundle on each, and an apply that changes nothing.

Every client runs as its user runs it, in processes of its own, one after the other. The hosts are on the machine that measures: what
sshd and Python cost there is in everybody's wall time, and in nobody's CPU time.

`BENCH_HOSTS=1,10,50,100` chooses how many. `BENCH_PEERS=FOLDER` is a virtual environment with both peers, in place of a new one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from falplan.sdk.trees import TreeFile, tree_digest, write_archive
from tests.bench.clients import Spent, Tool, compare
from tests.bench.peers import Peers, make_environment
from tests.faults.sandbox import Sandbox
from tests.lab.loopback import LoopbackHost

pytestmark = [pytest.mark.bench, pytest.mark.needs("openssh-server"), pytest.mark.timeout(3600)]
Make = Callable[..., LoopbackHost]
SIZES = [int(n) for n in os.environ.get("BENCH_HOSTS", "1,10,50,100").split(",")]
BUNDLE = 20_000_000  # bytes that no compression makes fewer


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("peers"))


@pytest.fixture
def hosts(make_host: Make, count: int) -> list[LoopbackHost]:
    """As many, each with the Python of this benchmark first on its PATH: what stands in for one elsewhere may be a slow script."""
    made = [make_host(f"h{n:03}", start=False) for n in range(count)]
    for host in made:
        host.path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
        host.start()
    return made


@pytest.fixture
def peers(programs: Path, hosts: list[LoopbackHost], tmp_path: Path) -> Iterator[Peers]:
    made = Peers(programs, tmp_path / "peers", hosts).write()
    yield made
    made.ansible().end()


def rounds_of(count: int) -> int:
    return 3 if count <= 10 else 1


def program_of(hosts: list[LoopbackHost], folder: Path) -> Tool:
    """The program over the SDK, with these hosts."""
    rows = [
        {
            "name": h.folder.name,
            "address": h.address,
            "port": h.port,
            "key": str(h.client_key),
            "host_key": h.keys["ed25519"],
            "home": f"{h.folder}/home",
        }
        for h in hosts
    ]
    path = folder / "hosts.json"
    path.write_text(json.dumps(rows))
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return Tool([sys.executable, "-m", "tests.bench.many_hosts", str(path)], folder, environ)


def cold(ansible: Tool, *args: str) -> Callable[[], Spent]:
    """A run that has to connect to each host."""

    def run() -> Spent:
        ansible.end()
        return ansible.run(*args)

    return run


@pytest.mark.parametrize("count", SIZES)
def test_a_command_on_each(hosts: list[LoopbackHost], peers: Peers, tmp_path: Path, count: int) -> None:
    ours, ansible, pyinfra = program_of(hosts, tmp_path), peers.ansible("ansible"), peers.pyinfra()
    one = ("all", "-m", "command", "-a", "true")
    works = {
        "falplan": lambda: ours.run("run", "1", "true"),
        "pyinfra": lambda: pyinfra.run("exec", "--", "true"),
        "ansible": cold(ansible, *one),
        "ansible, connections kept": lambda: ansible.run(*one),
        "ansible, raw": cold(ansible, "all", "-m", "raw", "-a", "true"),
    }
    compare(f"A command on {count} hosts", works, rounds_of(count))


@pytest.mark.parametrize("count", SIZES)
def test_ten_commands_on_each(hosts: list[LoopbackHost], peers: Peers, tmp_path: Path, count: int) -> None:
    """What begins a connection counts for less, as it does where something is done there."""
    ours, ansible, pyinfra = program_of(hosts, tmp_path), peers.ansible(), peers.pyinfra()
    deploy = peers.deploy("ten", 'for n in range(10):\n    server.shell(name=f"{n}", commands=["true"])\n')
    playbook = peers.playbook("ten", *[{"command": "true"}] * 10)
    works = {
        "falplan": lambda: ours.run("run", "10", "true"),
        "pyinfra": lambda: pyinfra.run(deploy),
        "ansible": cold(ansible, playbook),
    }
    compare(f"Ten commands, one after the other, on {count} hosts", works, rounds_of(count))


@pytest.mark.parametrize("count", SIZES)
def test_a_bundle_on_each(hosts: list[LoopbackHost], peers: Peers, tmp_path: Path, count: int) -> None:
    """Each tool brings the same archive and unpacks it. falplan checks it, too, and flushes it to the disk."""
    archive, digest = a_bundle(tmp_path)
    ours, ansible, pyinfra = program_of(hosts, tmp_path), peers.ansible(), peers.pyinfra()
    unpack = "mkdir {home}/x && tar -C {home}/x -xzf {home}/bundle.tgz && rm {home}/bundle.tgz"
    deploy = peers.deploy(
        "bundle",
        f'files.put(name="bring", src={str(archive)!r}, dest=f"{{host.data.home}}/bundle.tgz")\n'
        f'server.shell(name="unpack", commands=["{unpack}".format(home=host.data.home)])\n',
    )
    playbook = peers.playbook(
        "bundle",
        {"file": {"path": "{{ home }}/x", "state": "directory"}},
        {"unarchive": {"src": str(archive), "dest": "{{ home }}/x"}},
    )

    def anew(work: Callable[[], Spent]) -> Callable[[], Spent]:
        def run() -> Spent:
            cost = work()
            for host in hosts:
                assert sum(p.stat().st_size for p in (host.folder / "home" / "x").rglob("*")) >= BUNDLE
                subprocess.run(["rm", "-rf", str(host.folder / "home" / "x")], check=True)
            os.sync()  # nobody pays for the bytes of the one before
            return cost

        return run

    works = {
        "falplan": anew(lambda: ours.run("put", str(archive), digest, "x")),
        "pyinfra": anew(lambda: pyinfra.run(deploy)),
        "ansible": anew(cold(ansible, playbook)),
    }
    compare(f"A bundle of {BUNDLE / 1e6:.0f} MB on {count} hosts", works, rounds_of(count))


def a_bundle(folder: Path) -> tuple[Path, str]:
    """An archive whose content can't be compressed, and the digest of what is in it."""
    tree, path = folder / "tree", folder / "bundle.tgz"
    tree.mkdir()
    (tree / "weights.bin").write_bytes(Random(1).randbytes(BUNDLE))
    (tree / "app.py").write_text("print('hello')\n")
    with path.open("wb") as stream:
        write_archive((TreeFile(p.name, p.read_bytes()) for p in sorted(tree.iterdir())), stream)
    return path, tree_digest(tree)


MARK, LINE = "a marker\n", "restrict ssh-ed25519 AAAA falplan"


def look_alike(peers: Peers) -> tuple[str, str]:
    """A deploy and a playbook that leave as much on a host as falplan does: a small file and a line of another one."""
    (peers.folder / "mark").write_text(MARK)
    deploy = peers.deploy(
        "same",
        f'files.put(name="mark", src={str(peers.folder / "mark")!r}, dest=f"{{host.data.home}}/.local/mark.json")\n'
        f'files.line(name="key", path=f"{{host.data.home}}/.ssh/authorized_keys", line={LINE!r})\n',
    )
    playbook = peers.playbook(
        "same",
        {"copy": {"src": str(peers.folder / "mark"), "dest": "{{ home }}/.local/mark.json"}},
        {"lineinfile": {"path": "{{ home }}/.ssh/authorized_keys", "line": LINE, "create": True}},
    )
    return deploy, playbook


@pytest.mark.parametrize("count", SIZES)
def test_an_apply(hosts: list[LoopbackHost], peers: Peers, count: int) -> None:
    """Every tool puts a file and a line of another one in place, or sees that they are. falplan's are its own, a marker and a key; it
    asks its control plane, too, which the first apply starts, and which looks at each host all the while that falplan is measured."""
    box = Sandbox()
    try:
        write_spec(box, hosts)
        falplan = Tool([sys.executable, "-m", "falplan", "-C", str(box.project)], box.folder, box.environ())
        deploy, playbook = look_alike(peers)
        pyinfra, ansible = peers.pyinfra(), peers.ansible()

        def alone(work: Callable[[], Spent]) -> Callable[[], Spent]:
            return lambda: without_looks(box, work)

        works = {
            "falplan": lambda: falplan.run("apply", "--auto-approve"),
            "pyinfra": alone(lambda: pyinfra.run(deploy)),
            "ansible": alone(cold(ansible, playbook)),
        }
        compare(f"The first apply to {count} hosts", works, 1)
        works["ansible, connections kept"] = alone(lambda: ansible.run(playbook))
        works["falplan plan"] = lambda: falplan.run("plan", "--detailed-exitcode")
        compare(f"An apply to {count} hosts that changes nothing", works, rounds_of(count))
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


def without_looks(box: Sandbox, work: Callable[[], Spent]) -> Spent:
    """Done while the control plane stands still: what it costs to look at hosts all the while is falplan's, and nobody else's."""
    served = box.processes("serve")
    for process in served:
        process.suspend()
    try:
        return work()
    finally:
        for process in served:
            process.resume()


def write_spec(box: Sandbox, hosts: list[LoopbackHost]) -> None:
    """A project of hosts alone, whose keys the spec has."""
    bodies = {h.folder.name: {"address": h.address, "port": h.port, "host_key": [*h.keys.values()]} for h in hosts}
    region = {"provider": "ssh", "user": "root", "identity_file": str(hosts[0].client_key), "hosts": bodies}
    spec = {"version": 1, "project": "fleet", "gateway": {"ephemeral": True}, "regions": {"lab": region}}
    (box.project / "falplan.yaml").write_text(json.dumps(spec))
    for host in hosts:
        for folder in (".local", ".ssh"):
            (host.folder / "home" / folder).mkdir()
