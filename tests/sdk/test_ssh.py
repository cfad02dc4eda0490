"""The way onto machines by SSH, with real sshds: keys, logins, detours, and what a lost connection does to work under way."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.errors import FalplanError
from falplan.sdk.shell import TimedOut, Unreachable
from falplan.sdk.ssh import Credentials, HostKeyRefused, SshShell, Target
from falplan.sdk.ssh.connect import LoginRefused, connect, scan
from falplan.sdk.ssh.keys import trusted_key
from falplan.sdk.ssh.link import not_begun
from falplan.sdk.ssh.target import chain, resolved
from falplan.sdk.testing.conformance import check_shell
from falplan.sdk.trees import TreeFile, tree_digest, write_archive
from falplan.sdk.values import Command
from tests.lab.loopback import CREDENTIALS, LoopbackHost, make_key
from tests.runner.machine import until

pytestmark = pytest.mark.needs("openssh-server")
Make = Callable[..., LoopbackHost]
NOBODY = "SHA256:" + "A" * 43


@pytest.mark.parametrize("jobs", ["", "jobs"])
def test_the_ssh_shell_conforms(make_host: Make, tmp_path: Path, jobs: str) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS, jobs=jobs and str(tmp_path / jobs))
    (tmp_path / "machine").mkdir()
    check_shell(shell, str(tmp_path / "machine"), tmp_path)

    until(lambda: not (tmp_path / "jobs").exists() or not list((tmp_path / "jobs").iterdir()), 5)


def test_nothing_of_ours_lies_on_a_machine_after_looking_at_it(make_host: Make) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    shell.run(Command(("true",)))
    found = shell.survey()
    shell.close()

    assert found["vcpu"] > 0 and shell.facts["uid"] == os.getuid()
    assert list((host.folder / "home").iterdir()) == []
    shell.close()


# -- host keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_is_trusted_whichever_of_its_keys_the_host_shows_first(make_host: Make, kind: str) -> None:
    host = make_host("h1", kinds=("ed25519", "ecdsa", "rsa"))
    connect(host.target(trusted=(host.keys[kind],)), CREDENTIALS).close()


@pytest.mark.parametrize("trusted", [(), (NOBODY,), (NOBODY, "SHA256:" + "B" * 43)])
def test_a_host_without_a_trusted_key_is_refused_before_anything_is_sent(
    make_host: Make, trusted: tuple[str, ...]
) -> None:
    host = make_host("h1", kinds=("ed25519", "rsa"))
    with pytest.raises(HostKeyRefused) as caught:
        connect(host.target(trusted=trusted), CREDENTIALS)

    text = str(caught.value)
    assert host.keys["ed25519"] in text and all(t in text for t in trusted)
    assert ("has changed" in text) == bool(trusted)
    assert "userauth" not in host.log and "Accepted" not in host.log


def test_a_key_that_changes_while_nobody_is_connected_is_refused(make_host: Make) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    shell.run(Command(("true",)))
    old = host.keys["ed25519"]
    host.end()
    host.renew("ed25519")
    host.start()
    with pytest.raises(HostKeyRefused, match="The host's key has changed") as caught:
        until(lambda: shell.link.lost == "" and False, 5)

    assert old in str(caught.value) and host.keys["ed25519"] in str(caught.value)


def test_a_scan_shows_the_key_and_logs_in_nowhere(make_host: Make) -> None:
    host = make_host("h1", kinds=("ed25519", "rsa"))

    assert scan(host.target(trusted=()), CREDENTIALS) == host.keys["ed25519"]
    assert "Accepted" not in host.log


def test_several_keys_may_be_trusted_while_one_replaces_the_other(make_host: Make) -> None:
    host = make_host("h1")
    connect(host.target(trusted=(NOBODY, host.keys["ed25519"])), CREDENTIALS).close()


def test_a_key_is_trusted_by_fingerprint_or_in_full(tmp_path: Path) -> None:
    line = make_key(tmp_path / "k")
    name = trusted_key(line)

    assert trusted_key(name) == trusted_key(f"  [10.0.0.1]:2222 {line} root@host\n") == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither"),
        ("SHA256:short", "neither"),
        ("ssh-ed25519 !!!", "is no key"),
        ("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIGJ1", "no key of that kind"),
        ("MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48", "can be forged"),
        ("16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48", "can be forged"),
        ("@cert-authority *.lab ssh-ed25519 AAAA", "one by one"),
        ("@revoked * ssh-ed25519 AAAA", "one by one"),
    ],
)
def test_what_is_no_key_is_refused(text: str, says: str) -> None:
    with pytest.raises(FalplanError, match=says):
        trusted_key(text)


# -- logging in -----------------------------------------------------------------------------------------------------------


def test_a_login_that_is_refused_says_what_was_tried(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1")
    make_key(tmp_path / "other")
    keys = (str(tmp_path / "other"), str(tmp_path / "none"))
    with pytest.raises(LoginRefused) as caught:
        connect(host.target(identity_files=keys), CREDENTIALS)

    text = str(caught.value)
    assert f"tried {tmp_path}/none (which is not there)" in text or f"{tmp_path}/none (which is not there)" in text
    assert f"{tmp_path}/other" in text and "~root/.ssh/authorized_keys" in text


def test_a_key_with_a_passphrase_says_what_to_do(make_host: Make, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    host = make_host("h1")
    locked = tmp_path / "locked"
    seal = BestAvailableEncryption(b"secret")
    locked.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, seal))
    with pytest.raises(LoginRefused, match=f"ssh-add {locked}"):
        connect(host.target(identity_files=(str(locked),)), CREDENTIALS)


def test_after_too_many_keys_it_is_said_that_they_are(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1", more="MaxAuthTries 2")
    names = [str(tmp_path / f"k{n}") for n in range(4)]
    for name in names:
        make_key(Path(name))
    with pytest.raises(LoginRefused, match="too many keys"):
        connect(host.target(identity_files=tuple(names)), CREDENTIALS)


def test_a_host_that_is_not_there_is_unreachable(make_host: Make) -> None:
    host = make_host("h1", start=False)
    with pytest.raises(Unreachable, match=r"h1 \(root@127\..*: Connection refused"):
        connect(host.target(), CREDENTIALS)
    with pytest.raises(Unreachable, match="no such name"):
        connect(Target("none.invalid", user="root", trusted=(NOBODY,)), CREDENTIALS)


def test_what_is_no_sshd_is_unreachable() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_answer_nonsense, args=(server,), daemon=True).start()
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
            connect(Target("web", "127.0.0.1", port, "root", (NOBODY,)), CREDENTIALS)
        server.shutdown(socket.SHUT_RDWR)


def _answer_nonsense(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_thirty_connections_at_once_come_through_a_server_that_drops_them(make_host: Make) -> None:
    """More than sshd takes at once by default: those that it drops are tried again."""
    host = make_host("h1", more="MaxStartups 3:50:6")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            connect(host.target(), CREDENTIALS).close()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


# -- detours --------------------------------------------------------------------------------------------------------------


def write_config(host: LoopbackHost, text: str) -> Credentials:
    path = host.folder / "config"
    path.write_text(text)
    return Credentials(config=str(path), agent=False)


def test_the_configuration_says_what_the_spec_leaves_open(make_host: Make) -> None:
    host = make_host("h1")
    config = f"Host gpu\n  HostName {host.address}\n  Port {host.port}\n  User root\n  IdentityFile {host.client_key}\n"
    credentials = write_config(host, config)
    shell = SshShell(Target("gpu", trusted=tuple(host.keys.values())), credentials)

    assert shell.run(Command(("sh", "-c", "echo $HOME"))).stdout.decode().strip() == str(host.folder / "home")
    shell.close()
    assert resolved(Target("other"), credentials).user == getpass.getuser()
    with pytest.raises(Unreachable, match=f"{host.address}:1:|{host.address}:1"):
        connect(Target("gpu", port=1, trusted=(NOBODY,)), credentials)


def test_a_host_behind_two_others_is_reached_through_them(make_host: Make) -> None:
    first, second, last = make_host("first"), make_host("second"), make_host("last")
    target = last.target(via=second.target(via=first.target()))
    shell = SshShell(target, CREDENTIALS)
    shell.run(Command(("true",)))

    assert "Accepted" in first.log and "Accepted" in second.log and "Accepted" in last.log
    assert f"to {last.address} port {last.port}" in second.log or last.address not in first.log
    shell.close()


def test_what_a_host_is_reached_through_is_checked_too(make_host: Make) -> None:
    first, last = make_host("first"), make_host("last")
    with pytest.raises(HostKeyRefused, match="first"):
        connect(last.target(via=first.target(trusted=())), CREDENTIALS)

    assert "Accepted" not in first.log and last.log.count("Connection from") <= 1


def test_a_host_may_be_reached_through_a_command(make_host: Make) -> None:
    import sys

    host = make_host("h1")
    relay = Path(__file__).parents[1] / "lab" / "relay.py"
    command = f"{sys.executable} {relay} %h %p"
    shell = SshShell(host.target(command=command), CREDENTIALS)

    assert shell.run(Command(("echo", "there"))).stdout == b"there\n"
    shell.close()


def test_a_command_that_leads_nowhere_is_unreachable(make_host: Make) -> None:
    host = make_host("h1")
    with pytest.raises(Unreachable, match="h1"):
        connect(host.target(command="exit 1"), CREDENTIALS)


def test_jumps_are_read_as_ssh_writes_them() -> None:
    last = chain(["ops@first:2222", "second", "[2001:db8::1]:22"])

    assert last is not None and last.via is not None and last.via.via is not None
    assert (last.address, last.port, last.via.name) == ("2001:db8::1", 22, "second")
    assert (last.via.via.user, last.via.via.address, last.via.via.port) == ("ops", "first", 2222)


# -- what answers there ---------------------------------------------------------------------------------------------------


def test_what_start_files_print_is_no_answer(make_host: Make) -> None:
    host = make_host("h1", more='ForceCommand echo Welcome to $HOME; sh -c "$SSH_ORIGINAL_COMMAND"')
    shell = SshShell(host.target(), CREDENTIALS)

    assert shell.run(Command(("echo", "hi"))).stdout == b"hi\n"
    shell.close()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo This account is not available.; exit 1", "This account is not available"),
        ("exit 119", "no Python 3.9"),
        ("exit 0", "it said nothing|status 0"),
        ("yes", "takes the login, but"),
    ],
)
def test_a_host_that_runs_no_commands_says_why(make_host: Make, command: str, says: str) -> None:
    host = make_host("h1", more=f"ForceCommand {command}")
    with pytest.raises(FalplanError, match=says):
        SshShell(host.target(), CREDENTIALS).run(Command(("true",)))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("sudo: a password is required", "NOPASSWD"),
        ("sudo: sorry, you must have a tty to run sudo", "requiretty"),
        ("/bin/sh: 1: sudo: not found", "sudo: not found"),
        ("ops is not in the sudoers file.", "sudoers"),
    ],
)
def test_a_sudo_that_does_not_work_says_why(said: str, says: str) -> None:
    assert says in str(not_begun("h1", 1, said, sudo=True))


# -- a connection that breaks ---------------------------------------------------------------------------------------------


def test_a_command_runs_once_though_its_connection_breaks(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS, jobs=str(tmp_path / "jobs"))
    count, go = tmp_path / "count", tmp_path / "go"
    script = f"echo x >> {count}; while [ ! -e {go} ]; do sleep 0.02; done; cat; exit 5"
    done: list[object] = []
    worker = threading.Thread(target=lambda: done.append(shell.run(Command(("sh", "-c", script), stdin=b"in"))))
    worker.start()
    until(count.exists, 10)
    host.cut()
    go.touch()
    worker.join(60)

    output = done[0]
    assert (output.code, output.stdout) == (5, b"in")  # type: ignore[attr-defined]
    assert count.read_text() == "x\n"
    until(lambda: not (tmp_path / "jobs").exists(), 5)
    shell.close()


def test_a_connection_that_nobody_used_for_long_is_no_dead_one(
    make_host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falplan.sdk.ssh.link.SILENCE", 1.0)
    shell = SshShell(make_host("h1").target(), CREDENTIALS)
    link = shell.link
    heard = link._heard
    until(lambda: time.monotonic() - heard > 1.5, 5)

    assert shell.run(Command(("sleep", "1.5"))).code == 0
    assert shell.link is link
    shell.close()


def test_without_a_folder_for_jobs_a_broken_command_is_unknown_and_ended(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    begun = tmp_path / "begun"
    failures: list[BaseException] = []

    def work() -> None:
        try:
            shell.run(Command(("sh", "-c", f"echo $$ > {begun}; sleep 60")))
        except BaseException as exc:
            failures.append(exc)

    worker = threading.Thread(target=work)
    worker.start()
    until(lambda: begun.exists() and begun.read_text().endswith("\n"), 10)
    host.cut()
    worker.join(60)

    assert isinstance(failures[0], Unreachable)
    until(lambda: not Path(f"/proc/{begun.read_text().strip()}").exists(), 10)
    shell.close()


def test_a_job_whose_time_is_up_says_so_after_a_break_too(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS, jobs=str(tmp_path / "jobs"))
    begun = tmp_path / "begun"
    failures: list[BaseException] = []

    def work() -> None:
        try:
            shell.run(Command(("sh", "-c", f"touch {begun}; sleep 60"), timeout=3))
        except BaseException as exc:
            failures.append(exc)

    worker = threading.Thread(target=work)
    worker.start()
    until(begun.exists, 10)
    host.cut()
    worker.join(60)

    assert isinstance(failures[0], TimedOut)
    shell.close()


def test_an_upload_that_is_cut_off_goes_on_where_it_was(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    content = os.urandom(24 << 20)
    archive = io.BytesIO()
    write_archive([TreeFile("weights", content)], archive)
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(content)
    digest, target = tree_digest(source), tmp_path / "machine" / "trees" / "t"
    shell.run(Command(("true",)))
    sent = 0

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal sent
            chunk = super().read(size)
            sent += len(chunk)
            if sent > 6 << 20 and not self.cut:
                self.cut = True
                host.cut()
            return chunk

        cut = False

    stream = Watched(archive.getvalue())
    shell.put_archive(stream, str(target), digest)

    assert stream.cut and (target / "weights").read_bytes() == content
    assert [p.name for p in target.parent.iterdir()] == ["t"]
    assert sent < 24 * 2 << 20  # not all of it twice
    shell.close()


def test_what_is_huge_is_cut_in_the_middle_and_keeps_nobody_waiting(make_host: Make) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    script = (
        "import sys; [f.buffer.write(b'%d' % i * 1000000) for i in range(10) for f in (sys.stdout, sys.stderr)] * 5"
    )
    output = shell.run(Command((shell.python, "-c", f"for _ in range(5): {script}")))

    assert output.code == 0 and output.stdout.startswith(b"000") and output.stderr.endswith(b"999")
    assert b" bytes left out]" in output.stdout and len(output.stdout) < 9 << 20
    shell.close()


def test_the_python_there_is_named_by_its_path(make_host: Make) -> None:
    host = make_host("h1")
    shell = SshShell(replace(host.target(), name="h1"), CREDENTIALS)

    assert Path(shell.python).is_absolute()
    shell.close()


# -- what listens there ---------------------------------------------------------------------------------------------------


def test_what_listens_there_is_reached_here_and_again_after_the_way_was_lost(make_host: Make, tmp_path: Path) -> None:
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        address = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        way = shell.reach(address)
        assert way.startswith("unix:") and shell.reach(address) == way
        assert _said_through(way) == b"hello"
        assert stat.S_IMODE(Path(way[5:]).parent.stat().st_mode) == 0o700
        host.cut()
        until(lambda: shell.reach(address) == way and _said_through(way) == b"hello", 30)
        shell.forget(address)
        assert not Path(way[5:]).exists()
        server.shutdown(socket.SHUT_RDWR)
    shell.close()
    assert not Path(way[5:]).parent.exists()


def test_what_goes_through_a_way_comes_to_its_end_though_another_one_took_its_place(
    make_host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with clients that were ended with the shell: a request under way was cut off whenever a host's settings changed."""
    monkeypatch.setattr("falplan.sdk.ssh.forward.HANDING_OVER", 0.1)
    shell = SshShell(make_host("h1").target(), CREDENTIALS)
    with closing(socket.create_server(("127.0.0.1", 0))) as server, closing(socket.socket(socket.AF_UNIX)) as caller:
        way = shell.reach(f"tcp:127.0.0.1:{server.getsockname()[1]}")
        caller.connect(way[5:])
        peer, _ = server.accept()
        with peer:
            shell.retire()
            caller.sendall(b"hello")
            peer.sendall(peer.recv(5))
            assert caller.recv(5) == b"hello" and Path(way[5:]).parent.exists()
            threading.Event().wait(0.5)  # past the time in which others learn of another way
            caller.sendall(b"again")
            peer.sendall(peer.recv(5))
            assert caller.recv(5) == b"again"
    until(lambda: not Path(way[5:]).parent.exists(), 10)


def test_a_way_keeps_its_place_when_another_one_is_forgotten(make_host: Make) -> None:
    """Seen red with names that were used again: requests for one runner went to another one."""
    host = make_host("h1")
    shell = SshShell(host.target(), CREDENTIALS)
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    addresses = [f"tcp:127.0.0.1:{server.getsockname()[1]}" for server in servers]
    first, second = (shell.reach(address) for address in addresses[:2])
    shell.forget(addresses[0])
    third = shell.reach(addresses[2])

    assert len({first, second, third}) == 3 and shell.reach(addresses[1]) == second and Path(second[5:]).exists()
    shell.close()
    for server in servers:
        server.close()


def test_a_way_goes_on_with_another_key_that_is_trusted_too(make_host: Make) -> None:
    """Seen red with a client that knew the first key alone."""
    host = make_host("h1", kinds=("ed25519", "rsa"))
    target = host.target()
    shell = SshShell(target, CREDENTIALS)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        address = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        way = shell.reach(address)
        assert _said_through(way) == b"hello"
        host.end()
        del host.keys["ed25519"]
        host.start()
        until(lambda: shell.link.lost == "", 20)
        assert shell.reach(address) == way and _said_through(way) == b"hello"
        server.shutdown(socket.SHUT_RDWR)
    shell.close()


def _said_through(way: str) -> bytes:
    with closing(socket.socket(socket.AF_UNIX)) as peer:
        try:
            peer.connect(way[5:])
            peer.sendall(b"hello")
            return peer.recv(5)
        except OSError:
            return b""


def _echo(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            peer.sendall(peer.recv(5))


def test_on_a_host_that_forwards_nothing_nobody_answers(make_host: Make) -> None:
    host = make_host("h1", more="AllowTcpForwarding no\nAllowStreamLocalForwarding no")
    shell = SshShell(host.target(), CREDENTIALS)
    way = shell.reach("tcp:127.0.0.1:1")

    assert _said_through(way) == b""
    shell.close()


def test_a_machine_that_says_nothing_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a repetition that is meant for connections that were lost: every look at a silent host took a minute, not half of one."""
    begun: list[tuple[str, int]] = []
    connects = socket.create_connection

    def counted(address: tuple[str, int], timeout: float) -> socket.socket:
        begun.append(address)
        return connects(address, timeout)

    with contextlib.ExitStack() as ends:
        server = ends.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(2):  # so many the system takes for it; the next ones get no answer
            waiting = ends.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        monkeypatch.setattr("falplan.sdk.ssh.connect.PATIENCE", 0.5)
        monkeypatch.setattr(socket, "create_connection", counted)
        shell = SshShell(Target("silent", "127.0.0.1", server.getsockname()[1]), Credentials())
        with pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
            shell.survey()
    assert len(begun) == 1
