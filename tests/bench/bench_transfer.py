"""200 MB to one real sshd: falplan's upload beside tar through ssh, and scp.

falplan compresses what it uploads when it is made, once for all hosts, and so do the peers get it: `tar` and `scp -r` bring the files as
they are, `tar.gz` and `scp` the archive. falplan goes on where it was cut off, checks what came, unpacks it, and flushes it to the disk;
`scp` only brings the archive. Rounds in turns, medians.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median

import pytest

from falplan.sdk.ssh import SshShell
from falplan.sdk.trees import TreeFile, tree_digest, write_archive
from tests.lab.loopback import CREDENTIALS, LoopbackHost

pytestmark = [pytest.mark.bench, pytest.mark.needs("openssh-server"), pytest.mark.timeout(1200)]
SIZE = 200_000_000
FILES = 4
ROUNDS = 5


@pytest.mark.parametrize("kind", ["content that can't be compressed", "text"])
def test_an_upload(make_host: Callable[..., LoopbackHost], tmp_path: Path, kind: str) -> None:
    host, tree, archive = make_host("h"), tmp_path / "tree", tmp_path / "tree.tgz"
    make_tree(tree, text=kind == "text")
    with archive.open("wb") as stream:
        write_archive((TreeFile(p.name, p.read_bytes()) for p in sorted(tree.iterdir())), stream)
    digest = tree_digest(tree)
    options = ssh_options(host, tmp_path)
    there = f"ssh -p {host.port} {options} root@{host.address}"
    target = tmp_path / "out"

    def falplan() -> None:
        shell = SshShell(host.target(), CREDENTIALS)
        with archive.open("rb") as stream:
            shell.put_archive(stream, str(target), digest)
        shell.close()

    def command(line: str) -> Callable[[], None]:
        return lambda: run(line)

    works = {
        "falplan": falplan,
        "tar | ssh tar": command(f"tar -C {tree} -c . | {there} 'mkdir {target} && tar -C {target} -x'"),
        "ssh tar -z < tar.gz": command(f"{there} 'mkdir {target} && tar -C {target} -xz' < {archive}"),
        "scp -r": command(f"scp -q -r -P {host.port} {options} {tree} root@{host.address}:{target}"),
        "scp tar.gz": command(f"scp -q -P {host.port} {options} {archive} root@{host.address}:{target}"),
    }
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - began)
            run(f"chmod -R u+w {target}; rm -rf {target}; sync -f {tmp_path}")
    print(f"\n{SIZE / 1e6:.0f} MB of {kind}, {archive.stat().st_size / 1e6:.0f} MB compressed:")
    ours = median(found["falplan"])
    for name, times in found.items():
        took = median(times)
        print(f"  {name:20} {took:6.2f} s {SIZE / 1e6 / took:6.0f} MB/s   falplan is {took / ours:.2f} times as fast")


def make_tree(folder: Path, *, text: bool) -> None:
    folder.mkdir()
    chance = Random(1)
    for n in range(FILES):
        size = SIZE // FILES
        body = b"".join(lines(chance, size))[:size] if text else chance.randbytes(size)
        (folder / f"part-{n}").write_bytes(body)


def lines(chance: Random, size: int) -> Iterator[bytes]:
    """About this many bytes of lines as a program may log them."""
    while size > 0:
        line = b"%08x INFO request %d took %.3f s\n" % (chance.getrandbits(32), size, chance.random())
        yield line
        size -= len(line)


def ssh_options(host: LoopbackHost, folder: Path) -> str:
    known = folder / "known_hosts"
    public = (host.folder / "host_ed25519.pub").read_text().strip()
    known.write_text(f"[{host.address}]:{host.port} {public}\n")
    words = ["-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-i", str(host.client_key)]
    return shlex.join(words)


def run(line: str) -> None:
    bash = shutil.which("bash") or "/bin/bash"
    subprocess.run([bash, "-o", "pipefail", "-ec", line], check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
