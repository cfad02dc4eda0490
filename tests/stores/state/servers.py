"""Real servers that tests of state start: PostgreSQL as an unprivileged user, moto's S3 server as a process of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MEMORY = Path("/dev/shm")
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server that runs. `falplan` needs no password; `careful` has one, which is `right`."""

    port: int

    def dsn(self, user: str = "falplan", database: str = "state") -> str:
        return f"host=127.0.0.1 port={self.port} user={user} dbname={database}"


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A fresh cluster on a free port, gone afterwards. initdb refuses root, so root lends it to nobody."""
    folder = Path(tempfile.mkdtemp(prefix="falplan-pg-", dir=MEMORY if MEMORY.is_dir() else None))
    port = free_port()
    try:
        _own(folder)
        data = folder / "data"
        _run(
            [
                "initdb",
                "-D",
                str(data),
                "-U",
                "falplan",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale",
                "C.UTF-8",
            ]
        )
        rules = "local all all trust\nhost all careful 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        (data / "pg_hba.conf").write_text(rules)
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder} -c fsync=off"
        _run(["pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start"])
        try:
            sql = "create role careful login password 'right'; create database state"
            for statement in sql.split("; "):
                _run(["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "falplan", "-d", "postgres", "-qc", statement])
            yield Postgres(port)
        finally:
            _run(["pg_ctl", "-D", str(data), "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3_server(*, deaf: bool = False, checked_after: int | None = None, expired: Path | None = None) -> Iterator[str]:
    """The URL of an S3 server. `checked_after`: it looks at credentials after that many calls. `expired`: they have, while that file is there."""
    _read_once()
    environ = {**os.environ, **KEYS}
    if checked_after is not None:
        environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(checked_after)
    argv = [sys.executable, str(Path(__file__).with_name("s3_server.py")), *(["--deaf"] if deaf else [])]
    argv += ["--expired", str(expired)] if expired else []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@cache
def _read_once() -> None:
    """Half of the time of a test with a client of its own was reading the same descriptions of S3 again."""
    from botocore.loaders import JSONFileLoader

    read: Any = JSONFileLoader.load_file
    kept = cache(lambda path: read(JSONFileLoader(), path))
    JSONFileLoader.load_file = lambda self, path: kept(path)


def make_bucket(url: str, name: str) -> None:
    client(url).create_bucket(Bucket=name)


def client(url: str, service: str = "s3", **keys: str) -> Any:
    import boto3

    given = keys or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **given)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _own(folder: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)


def _run(argv: list[str]) -> None:
    if os.geteuid() == 0:
        argv = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "HOME=/tmp", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
