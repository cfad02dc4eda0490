"""A small program over the SDK: the same on many hosts, in a pool of threads as large as the one of the SSH provider.

    python -m tests.bench.many_hosts HOSTS.json run TIMES COMMAND...
    python -m tests.bench.many_hosts HOSTS.json put ARCHIVE DIGEST FOLDER

HOSTS.json is a list of {name, address, port, key, host_key, home}; FOLDER is below each host's home.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from falplan.sdk.ssh import Credentials, SshShell, Target
from falplan.sdk.values import Command

AT_A_TIME = 32
"""As `falplan_providers.ssh.region` has it."""


def main(hosts: str, verb: str, *args: str) -> None:
    """Do it on each, and close the connection before another one is begun in its place."""
    work = run(int(args[0]), args[1:]) if verb == "run" else put(*args)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        done = list(pool.map(lambda host: each(host, work), json.loads(Path(hosts).read_text())))
    print(f"{len(done)} hosts")


def each(host: dict[str, Any], work: Callable[[SshShell, dict[str, Any]], None]) -> None:
    target = Target(
        host["name"],
        host["address"],
        host["port"],
        "root",
        trusted=(host["host_key"],),
        identity_files=(host["key"],),
    )
    shell = SshShell(target, Credentials(config="", agent=False))
    try:
        work(shell, host)
    finally:
        shell.close()


def run(times: int, argv: Sequence[str]) -> Callable[[SshShell, dict[str, Any]], None]:
    def work(shell: SshShell, host: dict[str, Any]) -> None:
        for _ in range(times):
            assert shell.run(Command(tuple(argv))).code == 0

    return work


def put(archive: str, digest: str, folder: str) -> Callable[[SshShell, dict[str, Any]], None]:
    def work(shell: SshShell, host: dict[str, Any]) -> None:
        with Path(archive).open("rb") as stream:
            shell.put_archive(stream, f"{host['home']}/{folder}", digest)

    return work


if __name__ == "__main__":
    main(*sys.argv[1:])
