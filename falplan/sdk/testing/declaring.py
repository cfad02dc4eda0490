"""What the options of a fake region ask for. Reads them and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import cast

from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject
from falplan.sdk.resources import Declared, ResourceKind

REGION = ("world", "hosts", "network", "existing")
HOST = ("size", "disk", "tags", "user_data", "after", "create_first", "protect")
NETWORK = ("cidr", "tags", "protect")


def address_of(kind: ResourceKind, region: str, name: str) -> str:
    """The address of a region's resource: `host.REGION.NAME`; `network.REGION` for the only one of its kind."""
    return ".".join(filter(None, (kind.value, region, name)))


def declared_by(region: str, options: Mapping[str, Json]) -> list[Declared]:
    """The region's network, its hosts, and what exists without it.

    Raises:
        FalplanError: an option is unknown or has no meaning.
    """
    _check(f"Region {region}", options, REGION)
    if not isinstance(options.get("world"), str):
        raise FalplanError("Invalid region", f'Region {region}: "world" must be the path of a folder.')
    home: JsonObject = {"world": options["world"]}
    return list(_declared(region, options, home))


def _declared(region: str, options: Mapping[str, Json], home: JsonObject) -> Iterator[Declared]:
    network = options.get("network")
    if network is not None:
        yield _network(_mapping(f"Region {region}: network", network), home)
    hosts = _mapping(f"Region {region}: hosts", options.get("hosts") or {})
    for name, body in hosts.items():
        yield _host(f"Region {region}: host {name}", name, _mapping(name, body or {}), home, alone=network is None)
    existing = _mapping(f"Region {region}: existing", options.get("existing") or {})
    for name in existing:
        yield Declared(ResourceKind.HOST, name, {}, home, managed=False, path=("existing", name))


def _network(body: Mapping[str, Json], home: JsonObject) -> Declared:
    _check("The network", body, NETWORK)
    inputs: JsonObject = {"cidr": body.get("cidr", "10.0.0.0/16"), "tags": body.get("tags") or {}}
    return Declared(
        ResourceKind.NETWORK,
        "",
        inputs,
        home,
        immutable=frozenset({"cidr"}),
        known_after=("id",),
        protect=body.get("protect") is True,
        because={"cidr": "a network keeps its range for life"},
        path=("network",),
        defaults=frozenset({"cidr", "tags"} - body.keys()),
    )


def _host(where: str, name: str, body: Mapping[str, Json], home: JsonObject, *, alone: bool) -> Declared:
    _check(where, body, HOST)
    inputs: JsonObject = {
        "size": body.get("size", "small"),
        "disk": body.get("disk", 10),
        "tags": body.get("tags") or {},
    }
    if "user_data" in body:
        inputs["user_data"] = body["user_data"]
    after = [(ResourceKind.HOST, str(other)) for other in cast("list[str]", body.get("after") or [])]
    return Declared(
        ResourceKind.HOST,
        name,
        inputs,
        home,
        depends_on=(*([] if alone else [(ResourceKind.NETWORK, "")]), *after),
        immutable=frozenset({"size"}),
        create_first=body.get("create_first") is True,
        known_after=("id", "ip"),
        protect=body.get("protect") is True,
        because={"size": "a host keeps its size for life"},
        path=("hosts", name),
        defaults=frozenset({"size", "disk", "tags"} - body.keys()),
    )


def _mapping(where: str, value: Json) -> Mapping[str, Json]:
    if isinstance(value, dict):
        return value
    raise FalplanError("Invalid region", f"{where}: a mapping is wanted, not {value!r}.")


def _check(where: str, body: Mapping[str, Json], known: tuple[str, ...]) -> None:
    for name in body:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(known)}."
            raise FalplanError("Unknown option", f'{where} has no option "{name}". {hint}')
