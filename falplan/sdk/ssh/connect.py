"""Connections: sockets that notice a dead peer, host keys before anything else, then the login. Knows nothing of what they are for."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh.keys import TYPES, check_key, fingerprint, known_keys
from falplan.sdk.ssh.target import Credentials, Target, resolved
from falplan.sdk.waiting import waiting_for

if TYPE_CHECKING:
    import paramiko

STARTS = 10
"""Connections that are begun at once with one machine: sshd drops more at random (MaxStartups 10:30:100)."""

PATIENCE = 30.0
"""Seconds for each step of a beginning. A slow machine is not a dead one."""

SILENCE = 15.0
"""Seconds without any sign of life after which a connection counts as lost."""

TRIES = 5
"""Times that a beginning is tried that the machine cut off: its sshd has too much to do."""

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class NoAnswer(Unreachable):
    """Nothing came from the machine for the whole of `PATIENCE`. Whoever asks again soon gets the same answer at once."""


SAYS_NOTHING = f"it takes connections, and says nothing for {PATIENCE:g} s"

REMEMBERED = 10.0
"""Seconds for which a machine that said nothing is not asked again: a plan asks each host for several things, one after the other, and
fifty hosts may stand behind one bastion."""

_silent: dict[tuple[str, str], tuple[float, NoAnswer]] = {}
_turns: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_turns_lock = threading.Lock()


class LoginRefused(Unreachable):
    """The machine answers, and takes none of the keys."""


class _NoSuchKey(Exception):
    """The machine has no host key of the kind that it was asked for."""


@dataclass(slots=True)
class Connection:
    """A transport that is logged in, and what it goes through."""

    transport: paramiko.Transport
    target: Target
    below: list[Connection] = field(default_factory=list)

    def close(self) -> None:
        """End it, and what it goes through. May be called again."""
        with contextlib.suppress(EOFError, OSError):  # it says good-bye over the ones below, which may be gone
            self.transport.close()
        for other in self.below:
            other.close()


def connect(target: Target, credentials: Credentials) -> Connection:
    """Connect and log in.

    Raises:
        HostKeyRefused: the machine shows a key that is not trusted; nothing was sent to it.
        LoginRefused: it takes none of the keys.
        Unreachable: it does not answer.
        FalplanError: what says how to reach it makes no sense.
    """
    target = resolved(target, credentials)
    below = [connect(target.via, credentials)] if target.via else []
    try:
        with waiting_for(target.where, PATIENCE):
            transport = _trusted(target, below)
            try:
                _log_in(transport, target, credentials)
            except BaseException:
                transport.close()
                raise
        return Connection(transport, target, below)
    except BaseException:
        for other in below:
            other.close()
        raise


def scan(target: Target, credentials: Credentials) -> str:
    """The fingerprint of the key that a machine shows first. Nobody logs in there; what it is reached through is logged in to.

    Raises:
        Unreachable, FalplanError: as for `connect`.
    """
    target = resolved(target, credentials)
    below = [connect(target.via, credentials)] if target.via else []
    try:
        with waiting_for(target.where, PATIENCE):
            transport = _begin(target, below)
        try:
            return fingerprint(transport.get_remote_server_key().asbytes())
        finally:
            transport.close()
    finally:
        for other in below:
            other.close()


def _trusted(target: Target, below: Sequence[Connection]) -> paramiko.Transport:
    """A transport to a machine that has shown a trusted key: of any kind, whichever it shows first."""
    trusted = {*target.trusted, *(_known(target) if target.known_hosts else ())}
    seen: list[str] = []
    kinds: list[tuple[str, ...] | None] = [None, *TYPES]
    shown: set[str] = set()
    for kind in kinds:
        if kind is not None and shown & set(kind):
            continue
        try:
            transport = _begin(target, below, kind)
        except _NoSuchKey:
            continue
        key = transport.get_remote_server_key()
        # RSA keys have one name, and are asked for under those of their signatures.
        shown |= {"rsa-sha2-512"} if key.get_name() == "ssh-rsa" else {key.get_name()}
        seen.append(fingerprint(key.asbytes()))
        if seen[-1] in trusted:
            return transport
        transport.close()
        if not trusted:
            break
    check_key(target.where, seen, trusted)
    raise AssertionError("a trusted key was seen, and its transport closed")


def _known(target: Target) -> set[str]:
    """Fingerprints that ~/.ssh/known_hosts has of a machine."""
    name = target.address if target.port == 22 else f"[{target.address}]:{target.port}"
    return known_keys(Path("~/.ssh/known_hosts").expanduser(), name)


def _begin(target: Target, below: Sequence[Connection], kind: tuple[str, ...] | None = None) -> paramiko.Transport:
    """A transport that has agreed on keys with the machine; nobody is logged in.

    Raises:
        _NoSuchKey: it has no host key of this kind.
        Unreachable: it does not answer, or is too busy for long.
    """
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told once
    with turn(target):
        _check_heard(target)
        for attempt in range(TRIES):
            began = time.monotonic()
            sock = _socket(target, below)
            transport = paramiko.Transport(sock)
            transport.banner_timeout = transport.handshake_timeout = PATIENCE
            options = transport.get_security_options()
            # It needs no MAC of its own. The others stay in their order.
            options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
            if kind is not None:
                options.key_types = kind
            try:
                transport.start_client(timeout=PATIENCE)
            except paramiko.ssh_exception.IncompatiblePeer as exc:
                transport.close()
                if kind is not None:
                    raise _NoSuchKey from exc
                raise Unreachable("The host can't be reached", f"{target.where} speaks another SSH: {exc}.") from exc
            except (paramiko.SSHException, EOFError, OSError) as exc:
                transport.close()
                if time.monotonic() - began > PATIENCE - 1:
                    raise _note_silence(target, SAYS_NOTHING) from exc
                if attempt == TRIES - 1:
                    raise Unreachable("The host can't be reached", f"{target.where}: {words(exc)}.") from exc
                time.sleep((0.2 * 2**attempt) * (0.5 + os.urandom(1)[0] / 256))
                continue
            if transport.initial_kex_done:
                return transport
            transport.close()  # time was up, which paramiko does not raise
            raise _note_silence(target, SAYS_NOTHING)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def turn(target: Target) -> Iterator[None]:
    """Wait until the machine that is connected to first may be asked for one more connection."""
    first = target
    while first.via is not None:
        first = first.via
    with _turns_lock:
        turn = _turns.setdefault((first.address, first.port), threading.BoundedSemaphore(STARTS))
    with turn:
        yield


def _check_heard(target: Target) -> None:
    """Do not wait once more for a machine that has just said nothing.

    Raises:
        NoAnswer: what it was then.
    """
    at, answer = _silent.get(_whom(target), (0.0, None))
    if answer is not None and time.monotonic() - at < REMEMBERED:
        raise NoAnswer(answer.summary, answer.detail)


def _note_silence(target: Target, because: str) -> NoAnswer:
    found = NoAnswer("The host can't be reached", f"{target.where}: {because}.")
    _silent[_whom(target)] = time.monotonic(), found
    return found


def _whom(target: Target) -> tuple[str, str]:
    """Machines behind one bastion are others than those of the same address elsewhere."""
    return target.where, target.via.where if target.via else ""


def _socket(target: Target, below: Sequence[Connection]) -> socket.socket | paramiko.Channel:
    if below:
        return _through(target, below[-1])
    if target.command:
        return _command(target)
    try:
        sock = socket.create_connection((target.address, target.port), PATIENCE)
    except socket.gaierror as exc:
        raise Unreachable("The host can't be reached", f"{target.where}: no such name ({exc.strerror}).") from exc
    except TimeoutError as exc:
        raise _note_silence(target, words(exc)) from exc
    except OSError as exc:
        raise Unreachable("The host can't be reached", f"{target.where}: {words(exc)}.") from exc
    watch(sock)
    return sock


def watch(sock: socket.socket) -> None:
    """Let the system notice a peer that is gone, within `SILENCE`: keepalives of SSH's own do not end a connection in paramiko."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", int(SILENCE * 1000)),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _through(target: Target, below: Connection) -> paramiko.Channel:
    import paramiko

    try:
        return below.transport.open_channel(
            "direct-tcpip", (target.address, target.port), ("127.0.0.1", 0), timeout=PATIENCE
        )
    except (paramiko.SSHException, EOFError) as exc:
        detail = f"{target.where}, through {below.target.where}: {words(exc)}."
        raise Unreachable("The host can't be reached", detail) from exc


def _command(target: Target) -> socket.socket:
    """A socket whose other end is a ProxyCommand's standard input and output."""
    ours, theirs = socket.socketpair()
    command = target.command.replace("%h", target.address).replace("%p", str(target.port)).replace("%r", target.user)
    with theirs:
        end = theirs.fileno()
        process = subprocess.Popen(["/bin/sh", "-c", f"exec {command}"], stdin=end, stdout=end, start_new_session=True)
    threading.Thread(target=process.wait, daemon=True).start()  # it ends with the socket, and is not left a zombie
    ours.settimeout(PATIENCE)
    return ours


def words(exc: BaseException) -> str:
    """What went wrong with a connection, for people."""
    if isinstance(exc, TimeoutError):
        return f"no answer within {PATIENCE:g} s"
    if isinstance(exc, EOFError):
        return "it ended the connection"
    return str(getattr(exc, "strerror", None) or getattr(exc, "text", None) or exc).rstrip(".") or type(exc).__name__


# -- logging in -----------------------------------------------------------------------------------------------------------


def _log_in(transport: paramiko.Transport, target: Target, credentials: Credentials) -> None:
    import paramiko

    tried: list[str] = []
    offered = 0
    transport.auth_timeout = PATIENCE
    try:
        for name, key in _keys(target, credentials, tried):
            tried.append(name)
            offered += 1
            try:
                if not transport.auth_publickey(target.user, key):
                    return
                tried[-1] += " (which is not enough alone)"
            except paramiko.BadAuthenticationType as exc:
                raise _refused(target, [], f"it takes {', '.join(exc.allowed_types)}, and no keys") from exc
            except paramiko.AuthenticationException:
                continue
        with contextlib.suppress(paramiko.AuthenticationException):  # networks that know who asks need no key
            if not transport.auth_none(target.user):
                return
    except (paramiko.SSHException, EOFError, OSError) as exc:
        if offered < 2:  # no sshd counts one key as too many
            detail = f"{target.where}: it ended the connection during the login."
            raise Unreachable("The host can't be reached", detail) from exc
        raise _refused(target, tried, "it then ended the connection: after too many keys sshd takes no more") from exc
    raise _refused(target, tried)


def _refused(target: Target, tried: Sequence[str], because: str = "") -> LoginRefused:
    keys = f"tried {', '.join(tried)}" if tried else "there is no key to try" if not because else ""
    says = "; ".join(filter(None, (keys, because)))
    advice = (
        f"Put a public key into ~{target.user}/.ssh/authorized_keys there, or name another `user` or `identity_file`."
    )
    return LoginRefused("The host refuses the login", f"{target.where}: {says}. {advice}")


def _keys(target: Target, credentials: Credentials, told: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys to try, each with a name for people. What can't be used is `told`."""
    if credentials.key_file:
        yield from _from_file(credentials.key_file, told)
        if not target.known_hosts:  # what stands between is a person's: it may know that person's keys alone
            return
    for name in target.identity_files:
        yield from _from_file(name, told)
    if (credentials.agent or credentials.key_file) and not target.only_identities:
        import paramiko

        with contextlib.suppress(paramiko.SSHException):
            agent = paramiko.Agent()
            for key in agent.get_keys():
                yield f"{key.comment or 'a key'} of the agent", key
    if not target.identity_files:
        for name in DEFAULT_KEYS:
            if Path(name).expanduser().is_file():
                yield from _from_file(name, told)


def _from_file(name: str, told: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    import paramiko

    path = Path(name).expanduser()
    try:
        key = paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError):
        told.append(f"{name} (which has a passphrase: `ssh-add {name}` first)")
        return
    except FileNotFoundError:
        told.append(f"{name} (which is not there)")
        return
    except (paramiko.SSHException, OSError, ValueError) as exc:
        told.append(f"{name} (which can't be read: {exc})")
        return
    certificate = Path(f"{path}-cert.pub")
    if certificate.is_file():
        with contextlib.suppress(paramiko.SSHException, ValueError):
            key.load_certificate(str(certificate))
    yield name, key
