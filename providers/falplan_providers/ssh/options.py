"""The options of a region of SSH hosts, checked: each host with what its region says for all of them. Connects to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject
from falplan.sdk.room import NAMES as ROOM
from falplan.sdk.room import check_names, room_of
from falplan.sdk.ssh import Credentials, Target
from falplan.sdk.ssh.keys import trusted_key
from falplan.sdk.ssh.target import chain
from falplan.sdk.values import PORTS, Direct, Room, Units

FOLDER = "~/.local/share/falplan"
"""Where falplan keeps its things on a host, unless the region says otherwise."""

LOGIN = ("user", "port", "identity_file", "jump", "sudo")
UNITS = ("systemd", "run_as", "writable", "install", "reach", "direct_ports")
REGION = ("hosts", "folder", "key_file", *LOGIN, *ROOM, *UNITS)
HOST = ("address", "host_key", "protect", "root", "direct_address", *LOGIN, *ROOM, *UNITS)

WAY = ("address", "host_key", *LOGIN)
"""What suffices to reach a host."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host. `options` are its own over those of its region; `root` is its folder there, empty as long as nobody knows it."""

    name: str
    target: Target
    credentials: Credentials
    room: Room
    folder: str
    options: JsonObject
    protect: bool = False
    root: str = ""
    units: Units = field(default_factory=Units)
    pushes: bool = False
    direct: Direct | None = None


def hosts_of(region: str, options: Mapping[str, Json]) -> dict[str, Host]:
    """The hosts of a region, by name.

    `key_file` is the control plane's own key: with it nothing of a person's is used. `root` is a host's folder there.

    Raises:
        FalplanError: an option is unknown or has no meaning, with its name.
    """
    check_names(region, "", options, REGION)
    hosts = options.get("hosts") or {}
    if not isinstance(hosts, dict):
        raise FalplanError(
            "Invalid region", f"regions.{region}.hosts is {hosts!r}; it must be a mapping of names to hosts."
        )
    return {name: _host(region, name, body, options) for name, body in hosts.items()}


def _host(region: str, name: str, body: Json, options: Mapping[str, Json]) -> Host:
    where = f"{region}.hosts.{name}"
    if body is not None and not isinstance(body, dict):
        raise FalplanError("Invalid region", f"regions.{where} is {body!r}; it must be a mapping.")
    own = body or {}
    check_names(where, "", own, HOST)
    merged = _over({k: v for k, v in options.items() if k in (*LOGIN, *ROOM, *UNITS)}, own)
    folder = str(options.get("folder") or FOLDER)
    room = room_of(where, {k: v for k, v in merged.items() if k in ROOM})
    key_file = str(options.get("key_file") or "")
    credentials = Credentials(key_file=key_file, agent=not key_file)
    # The control plane's key is a person's no more than its machine's configuration is; the way to the bastion is.
    return Host(
        name,
        _target(where, name, merged),
        credentials,
        room,
        folder,
        merged,
        merged.get("protect") is True,
        str(merged.get("root") or ""),
        _units(merged),
        merged.get("install") == "push",
        _direct(where, name, merged),
    )


def _direct(where: str, name: str, options: Mapping[str, Json]) -> Direct | None:
    """How its runners are reached without SSH; None if they are reached through it.

    Raises:
        FalplanError: nobody says at which address that is to be.
    """
    if options.get("reach") != "direct":
        return None
    if options.get("jump") and not options.get("direct_address"):
        detail = (
            f"regions.{where} says `reach: direct` and `jump`: its own address can't be connected to. "
            "Say `direct_address`, where its ports are reached from the control plane, or `reach: ssh`."
        )
        raise FalplanError("Invalid region", detail)
    address = str(options.get("direct_address") or options.get("address") or name)
    return Direct(address, ports_of(str(options["direct_ports"])) if options.get("direct_ports") else PORTS)


def ports_of(written: str) -> tuple[int, int]:
    """The first and the last of `20000-29999`, or of one alone."""
    first, _, last = written.partition("-")
    return int(first), int(last or first)


def _units(options: Mapping[str, Json]) -> Units:
    writable = options.get("writable") or []
    folders = tuple(str(w) for w in (writable if isinstance(writable, list) else [writable]))
    return Units(options.get("systemd") is not False, str(options.get("run_as") or ""), folders)


def _over(below: Mapping[str, Json], own: Mapping[str, Json]) -> JsonObject:
    """A host's options over its region's: mappings key by key."""
    merged: JsonObject = {**below, **own}
    for name, value in below.items():
        mine = own.get(name)
        if isinstance(value, dict) and isinstance(mine, dict):
            merged[name] = {**value, **mine}
    return merged


def _target(where: str, name: str, options: Mapping[str, Json]) -> Target:
    keys = options.get("host_key") or []
    identity = options.get("identity_file")
    try:
        trusted = tuple(trusted_key(str(key)) for key in (keys if isinstance(keys, list) else [keys]))
    except FalplanError as exc:
        raise FalplanError("Invalid region", f"regions.{where}.host_key: {exc.detail}") from None
    return Target(
        name,
        address=str(options.get("address") or name),
        port=int(cast("int", options.get("port") or 0)),
        user=str(options.get("user") or ""),
        trusted=trusted,
        identity_files=(str(identity),) if identity else (),
        via=chain([j.strip() for j in str(options["jump"]).split(",")]) if options.get("jump") else None,
        sudo=options.get("sudo") is True,
    )
