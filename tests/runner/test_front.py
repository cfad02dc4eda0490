"""The TLS front of a runner: who is let in, what is relayed, and what nobody finds of its key. With real runners and sockets."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import aiohttp
import psutil
import pytest

from falplan.control.launch import Front, ObservedRunner, stop_runner
from falplan.core.runtime import RunnerAccess
from falplan.core.secret import SecretValue
from falplan.runner import front as front_module
from falplan.runner.front import GREETING, STRANGERS
from falplan.sdk.ways import NoWay, connector_to, why_not_let_in
from falplan.stores.runner_identity import RunnerIdentity, identities
from falplan.stores.sealing import Seal
from tests.runner.machine import APPS, TestMachine, a_machine, is_alive, until

APP = (sys.executable, str(APPS / "ways.py"))
IDENTITY = identities(Seal.of(b"k" * 32))("r1")
OTHER = identities(Seal.of(b"x" * 32))("r1")
PORTS = (20_000, 29_999)


@pytest.fixture
def machine(short_tmp: Path) -> Iterator[TestMachine]:
    with a_machine(short_tmp) as found:
        yield found


def front(identity: RunnerIdentity = IDENTITY, ports: tuple[int, int] = PORTS) -> Front:
    return Front(identity, ports, "127.0.0.1")


@pytest.fixture
def runner(machine: TestMachine) -> ObservedRunner:
    machine.start("r1", APP, front=front())
    return machine.ready("r1")


@contextmanager
def connected(runner: ObservedRunner, *, tls: bool = True) -> Iterator[socket.socket]:
    """A caller that has said nothing yet, nor looked at who answers."""
    plain = socket.create_connection(("127.0.0.1", runner.front_port), 20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with closing(context.wrap_socket(plain) if tls else plain) as sock:
        yield sock


def client(runner: ObservedRunner, access: RunnerAccess = IDENTITY.access) -> aiohttp.ClientSession:
    connector = connector_to(f"tls:127.0.0.1:{runner.front_port}", access, keep_alive=5)
    return aiohttp.ClientSession("http://runner", connector=connector)


def greeted(sock: socket.socket, token: SecretValue = IDENTITY.token) -> bytes:
    sock.sendall(GREETING + token.reveal() + b"\n")
    return answered(sock)


def answered(sock: socket.socket) -> bytes:
    """What comes; nothing if the connection is ended."""
    try:
        return sock.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""


def pid_of_front(machine: TestMachine) -> int:
    supervisor = psutil.Process(machine.status("r1")["supervisor"]["pid"])
    [found] = [c.pid for c in supervisor.children() if any(a.endswith("/front.py") for a in c.cmdline())]
    return found


async def test_requests_of_all_kinds_get_through_and_their_answers_back(runner: ObservedRunner) -> None:
    body = os.urandom(20 << 20)
    async with client(runner) as session:
        async with session.get("/") as answer:
            told = await answer.json()
        assert not any(IDENTITY.token.reveal().decode() in value for value in told["headers"].values())
        async with session.post("/upload", data=io.BytesIO(body)) as answer:
            assert (await answer.json())["sha256"] == hashlib.sha256(body).hexdigest()
        async with session.get("/download", params={"parts": 320}) as answer:
            assert len(await answer.read()) == 320 << 16
        async with session.ws_connect("/talk") as talk:
            await talk.send_str("one")
            assert await talk.receive_str() == "heard one"
            await talk.send_str("two")
            assert await talk.receive_str() == "heard two"
        many = [session.get("/download", params={"parts": 16}) for _ in range(40)]
        sizes = [len(await a.read()) for a in await asyncio.gather(*many)]
        assert sizes == [16 << 16] * 40


async def test_an_answer_is_read_no_faster_than_its_caller_reads(machine: TestMachine, runner: ObservedRunner) -> None:
    """Seen red with a front that read on: its memory grew with the answer."""
    process = psutil.Process(pid_of_front(machine))
    async with client(runner) as session, session.get("/download", params={"parts": 4096}) as answer:
        await answer.content.readexactly(1)
        before, calm = process.memory_info().rss, 0
        while calm < 3:  # until nothing moves any more
            used = process.cpu_times()
            await asyncio.sleep(0.2)
            calm = calm + 1 if process.cpu_times() == used else 0
        assert process.memory_info().rss - before < 8 << 20
        assert len(await answer.read()) == (4096 << 16) - 1


async def test_a_caller_that_goes_away_ends_the_apps_connection(runner: ObservedRunner) -> None:
    """Seen red with a front that let the app's connection be."""
    async with client(runner) as session:
        async with session.get("/endless", params={"name": "streamed"}) as answer:
            await answer.content.readexactly(5)
        waiting = asyncio.create_task(session.get("/silent", params={"name": "silent"}))
        await in_flight(session)
        waiting.cancel()
        await asyncio.wait([waiting])
        deadline = time.monotonic() + 20
        while sorted((await (await session.get("/")).json())["gone"]) != ["silent", "streamed"]:
            assert time.monotonic() < deadline


async def in_flight(session: aiohttp.ClientSession) -> None:
    """Let requests that were begun reach the app: another connection comes later than theirs."""
    for _ in range(3):
        async with session.get("/") as answer:
            await answer.read()


AFTER_THE_END = """
import os, socket
door = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
while True:
    caller = door.accept()[0]
    came = b""
    while piece := caller.recv(100):
        came += piece
    if came:
        caller.sendall(came.strip() + b"ed, and ended\\n" + bytes((1 << 20) - 17))
    caller.close()
"""


def test_a_caller_that_ends_its_side_gets_the_rest_of_the_answer(machine: TestMachine) -> None:
    """Seen red with a front that ended both sides."""
    machine.start("r1", (sys.executable, "-c", AFTER_THE_END), front=front())
    runner = machine.ready("r1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    arrives, leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(arrives, leaves)
    with socket.create_connection(("127.0.0.1", runner.front_port), 20) as sock:

        def act(work: Callable[[], bytes | int | None]) -> bytes | int | None:
            while True:
                try:
                    return work()
                except ssl.SSLWantReadError:
                    sock.sendall(leaves.read())
                    heard = sock.recv(1 << 16)
                    arrives.write(heard) if heard else arrives.write_eof()
                finally:
                    sock.sendall(leaves.read())

        act(tls.do_handshake)
        tls.write(GREETING + IDENTITY.token.reveal() + b"\n")
        assert act(lambda: tls.read(3)) == b"ok\n"
        tls.write(b"ask\n")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()  # close_notify; the other side has not said it
        sock.sendall(leaves.read())
        came = b""
        while len(came) < 1 << 20:
            piece = act(lambda: tls.read(1 << 16))
            assert isinstance(piece, bytes) and piece
            came += piece
        assert came == b"asked, and ended\n" + bytes((1 << 20) - 17)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        GREETING + OTHER.token.reveal() + b"\n",
        GREETING + b"\n" * 65,
        GREETING + IDENTITY.token.reveal() + b"x",
        b"\0" * 200,
    ],
)
def test_nobody_gets_in_without_the_token(machine: TestMachine, runner: ObservedRunner, said: bytes) -> None:
    """Seen red with a front that let everybody through."""
    with connected(runner) as sock:
        sock.sendall(said)
        assert answered(sock) == b""
    log = "\n".join(line["m"] for line in until(lambda: [x for x in machine.lines("r1") if "turned away" in x["m"]]))
    assert "127.0.0.1 was turned away" in log
    assert IDENTITY.token.reveal().decode() not in log and OTHER.token.reveal().decode() not in log


def test_plain_http_gets_no_answer_of_the_app(machine: TestMachine, runner: ObservedRunner) -> None:
    with connected(runner, tls=False) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP" not in answered(sock)
    until(lambda: [x for x in machine.lines("r1") if "no TLS" in x["m"]])


def test_older_tls_is_refused(runner: ObservedRunner) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", runner.front_port), 20) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


def test_a_caller_that_takes_too_long_is_cut_off(runner: ObservedRunner) -> None:
    """Before TLS, and after it. Seen red with a front that waited for ever."""
    with connected(runner, tls=False) as mute, connected(runner) as slow:
        slow.sendall(GREETING)
        assert select.select([mute], [], [], 30)[0] and answered(mute) == b""
        assert answered(slow) == b""


async def test_callers_without_a_token_keep_nobody_out(machine: TestMachine, runner: ObservedRunner) -> None:
    """Seen red with a front that refused further callers: the one with the token waited for the others' time to be up."""
    crowd = [socket.create_connection(("127.0.0.1", runner.front_port), 20) for _ in range(200)]
    try:
        began = time.monotonic()
        async with client(runner) as session, session.get("/") as answer:
            assert answer.status == 200
        assert time.monotonic() - began < 8
        held = [c for c in psutil.Process(pid_of_front(machine)).net_connections("tcp") if c.status == "ESTABLISHED"]
        assert len(held) <= STRANGERS + 2
    finally:
        for one in crowd:
            one.close()


async def test_another_certificate_gets_neither_token_nor_request(machine: TestMachine) -> None:
    """A man in the middle, who has the runner's name and all but its key. Seen red with a client that took any certificate."""
    machine.start("r1", APP, front=front(OTHER))
    seen = machine.ready("r1")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = Path(machine.root) / "other.pem"
    pem.write_bytes(OTHER.certificate.encode() + OTHER.key.reveal())
    context.load_cert_chain(pem)
    async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context) as middle:
        port = middle.sockets[0].getsockname()[1]
        for where in (replace(seen, front_port=port), seen):
            async with client(where) as session:
                with pytest.raises(NoWay, match="another certificate is shown there than the runner's"):
                    await session.get("/")
        mine = client(replace(seen, front_port=port), RunnerAccess(OTHER.certificate, IDENTITY.token))
        async with mine as session:
            with pytest.raises(NoWay, match="took no token"):
                await session.get("/")
    assert b"".join(heard) == GREETING + IDENTITY.token.reveal() + b"\n"
    assert "HTTP" not in "".join(line["m"] for line in machine.lines("r1"))


async def test_an_app_that_takes_no_connection_is_told_from_a_broken_answer(machine: TestMachine) -> None:
    """The caller may give such a request to another runner."""
    machine.start("r1", (sys.executable, "-c", "import time; time.sleep(600)"), front=front(), startup_timeout=60)
    seen = until(lambda: o if (o := machine.see("r1")).front_port else None)

    async with client(seen) as session:
        with pytest.raises(
            NoWay, match=rf"127.0.0.1:{seen.front_port} \(`reach: direct`\): the app takes no connection"
        ):
            await session.get("/")


async def test_a_port_behind_which_nobody_answers_is_named(machine: TestMachine) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        why = await why_not_let_in("127.0.0.1", port, IDENTITY.access, patience=0.3)
        assert why == f"127.0.0.1:{port} (`reach: direct`): nothing answered within 0.3 s, as behind a firewall"
    why = await why_not_let_in("127.0.0.1", port, IDENTITY.access)
    assert why == f"127.0.0.1:{port} (`reach: direct`): nothing listens there, or a firewall refuses it"


async def test_a_front_that_is_killed_comes_back_at_the_same_port(machine: TestMachine, runner: ObservedRunner) -> None:
    """Seen red with a supervisor that did not look after it."""
    async with client(runner) as session:
        async with session.get("/") as answer:
            app = (await answer.json())["pid"]
        os.kill(pid_of_front(machine), signal.SIGKILL)
        async with client(runner) as other, other.get("/") as answer:  # it waits in the queue of the socket
            assert (await answer.json())["pid"] == app
    assert any("its TLS front ended" in line["m"] for line in machine.lines("r1"))
    assert machine.see("r1").ready


LAST_WORDS = """
import os, socket
door = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
while True:
    caller = door.accept()[0]
    if caller.recv(100):
        caller.sendall(bytes(32 << 20))
        os._exit(0)
"""


def test_an_answer_comes_to_its_end_though_the_app_has_ended(machine: TestMachine) -> None:
    """Seen red with a front that was ended with its app: what it had yet to pass on was lost."""
    machine.start("r1", (sys.executable, "-c", LAST_WORDS), front=front())
    runner = machine.ready("r1")
    with connected(runner) as sock:
        assert greeted(sock) == b"ok\n"
        sock.sendall(b"say it")
        came = 0
        while piece := sock.recv(1 << 16):
            came += len(piece)
        assert came == 32 << 20
    assert machine.ended("r1").reason == "exited with status 0"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", runner.front_port), 5)


async def test_requests_under_way_are_answered_when_the_runner_is_told_to_end(
    machine: TestMachine, runner: ObservedRunner
) -> None:
    async with client(runner) as session, session.get("/download", params={"parts": 16}) as answer:
        await answer.content.readexactly(1)
        stopping = asyncio.get_running_loop().run_in_executor(
            None, lambda: stop_runner(machine.shell, machine.root, "r1", wait=30)
        )
        assert len(await answer.read()) == (16 << 16) - 1
        assert not (await stopping).alive


def test_the_front_ends_with_its_supervisor(machine: TestMachine, runner: ObservedRunner) -> None:
    pid = pid_of_front(machine)
    os.kill(machine.status("r1")["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: not is_alive(pid))


def test_nobody_finds_the_key_or_the_token_on_the_machine(machine: TestMachine, runner: ObservedRunner) -> None:
    token, key = IDENTITY.token.reveal(), IDENTITY.key.reveal().split(b"\n")[1]
    below = psutil.Process(machine.status("r1")["supervisor"]["pid"])
    for process in (below, *below.children(recursive=True)):
        for name in ("cmdline", "environ"):
            found = Path(f"/proc/{process.pid}/{name}").read_bytes()
            assert token not in found and key not in found
    for path in (p for p in Path(machine.root).rglob("*") if p.is_file()):
        found = path.read_bytes()
        assert token not in found and key not in found, path
    with connected(runner) as sock:
        assert greeted(sock) == b"ok\n", "it is in use all the same"
    assert re.fullmatch(r"[0-9a-f]{64}", machine.status("r1")["front"]["fingerprint"])


@pytest.mark.skipif(os.getuid() != 0, reason="starts processes of another user")
def test_nobody_of_the_same_user_looks_into_its_memory() -> None:
    """Files in /proc of a process that none but root may look into are root's. Seen red with a front that others may look into."""
    program = (Path(front_module.__file__)).read_text()
    given = {"certificate": IDENTITY.certificate, "target": "tcp:127.0.0.1:1"}
    given |= {"key": IDENTITY.key.reveal().decode(), "token": IDENTITY.token.reveal().decode()}
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        fd = door.fileno()
        argv = ["/usr/bin/python3", "-I", "-S", "-c", program, str(fd)]
        with subprocess.Popen(
            argv, stdin=PIPE, stdout=PIPE, pass_fds=(fd,), user=65534, group=65534, extra_groups=[], cwd="/"
        ) as process:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"serves\n"
            assert psutil.Process(process.pid).uids().real == 65534
            assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0
            process.stdin.close()


def test_runners_have_ports_of_their_own_and_say_if_there_is_none_left(machine: TestMachine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machine.start("r1", APP, front=front(ports=(port, port)))
    assert machine.ready("r1").front_port == port
    machine.start("r2", APP, front=front(ports=(port, port)))
    assert f"none of the ports {port}-{port} is free (`direct_ports`)" in machine.ended("r2").reason


async def test_identities_are_derived_the_same_each_time_and_tell_nothing_of_one_another() -> None:
    again, next_one = identities(Seal.of(b"k" * 32))("r1"), identities(Seal.of(b"k" * 32))("r2")
    assert (again.certificate, again.fingerprint) == (IDENTITY.certificate, IDENTITY.fingerprint)
    assert again.token == IDENTITY.token and again.key == IDENTITY.key
    assert len({IDENTITY.fingerprint, OTHER.fingerprint, next_one.fingerprint}) == 3
    assert IDENTITY.token.reveal().decode() not in repr(IDENTITY) + repr(IDENTITY.access)
