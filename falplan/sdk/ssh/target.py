"""Where a machine is and how to log in there, out of what the spec says and what ~/.ssh/config adds. Connects to nobody."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falplan.core.errors import FalplanError

if TYPE_CHECKING:
    import paramiko


@dataclass(frozen=True, slots=True)
class Target:
    """One machine. `name` is what people call it; `trusted` are the fingerprints of its host keys, of which one is enough.

    An empty `user`, `port` 0 and the like leave it to `via`, the machine that it is reached through, and to ~/.ssh/config. `known_hosts`:
    keys may also be trusted as ~/.ssh/known_hosts has them, as for a bastion that no spec describes. `sudo`: act as root there.
    """

    name: str
    address: str = ""
    port: int = 0
    user: str = ""
    trusted: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()
    via: Target | None = None
    command: str = ""  #: one that connects to it on its standard input and output, in place of a socket
    sudo: bool = False
    known_hosts: bool = False
    only_identities: bool = False  #: no key of the agent's but those of the identity files

    @property
    def where(self) -> str:
        """As people read it: `gpu-01 (ops@10.0.0.11:22)`."""
        user, port = self.user and f"{self.user}@", f":{self.port}" if self.port not in (0, 22) else ""
        place = f"{user}{self.address or self.name}{port}"
        return place if place == self.name else f"{self.name} ({place})"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to prove who one is.

    `config` is read for what a target leaves open, unless it is empty. `key_file` is used in place of a person's keys and agent.
    """

    config: str = "~/.ssh/config"
    key_file: str = ""
    agent: bool = True


def resolved(target: Target, credentials: Credentials) -> Target:
    """The target with nothing left open, and with what it is reached through.

    Raises:
        FalplanError: the configuration can't be read.
    """
    found = _lookup(target.address or target.name, credentials.config)
    # What the spec says comes first, then ~/.ssh/config, then what ssh itself does.
    via, command = target.via, target.command
    if via is None and not command:
        via, command = _through(found)
    identities = target.identity_files or tuple(found.get("identityfile", ()))
    return replace(
        target,
        address=str(found.get("hostname", target.address or target.name)),
        port=target.port or _port(found.get("port", 22)),
        user=target.user or str(found.get("user", "")) or getpass.getuser(),
        identity_files=tuple(str(Path(name).expanduser()) for name in identities),
        via=resolved(via, credentials) if via else None,
        command=command,
        only_identities=target.only_identities or str(found.get("identitiesonly", "")).lower() == "yes",
    )


def _lookup(name: str, path: str) -> Mapping[str, Any]:
    config = _config(path)
    if config is None:
        return {}
    try:
        return config.lookup(name)
    except Exception as exc:
        # paramiko has no one error for what it can't do: canonical names, `Match exec` without another library, bad tokens.
        raise FalplanError("The SSH configuration can't be used", f"{path}: {exc}") from exc


def _config(name: str) -> paramiko.SSHConfig | None:
    path = Path(name).expanduser()
    if not name or not path.is_file():
        return None
    import paramiko

    try:
        return paramiko.SSHConfig.from_path(str(path))
    except (paramiko.SSHException, OSError, UnicodeDecodeError) as exc:
        raise FalplanError("The SSH configuration can't be used", f"{path}: {exc}") from exc


def _through(found: Mapping[str, Any]) -> tuple[Target | None, str]:
    """What ~/.ssh/config says of the way: machines to go through, the last one first; or a command."""
    jumps = str(found.get("proxyjump", "none"))
    if jumps.lower() != "none":
        return chain([jump.strip() for jump in jumps.split(",")]), ""
    command = str(found.get("proxycommand") or "")
    return None, "" if command.lower() == "none" else command


def chain(jumps: Sequence[str]) -> Target | None:
    """`user@bastion:2222, other` as targets, each reached through the one before it."""
    via: Target | None = None
    for jump in jumps:
        user, _, place = jump.removeprefix("ssh://").rpartition("@")
        host, port = _split(place)
        via = Target(host, host, port, user, via=via, known_hosts=True)
    return via


def jumps_of(last: Target) -> str:
    """The way through others as `chain` reads it."""
    host = f"[{last.address}]" if ":" in last.address else last.address
    own = f"{last.user}@{host}:{last.port}" if last.user else f"{host}:{last.port}"
    return f"{jumps_of(last.via)},{own}" if last.via else own


def _split(place: str) -> tuple[str, int]:
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        return host, _port(port.removeprefix(":") or 0)
    host, colon, port = place.rpartition(":")
    return (host, _port(port)) if colon and ":" not in host else (place, 0)


def _port(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < 65_536:
        raise FalplanError("Not a port", f"{value!r} is no number from 1 to 65535.")
    return number
