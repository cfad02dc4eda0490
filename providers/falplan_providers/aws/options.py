"""The options of a region of AWS, checked. Asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject
from falplan.sdk.launches import Terms
from falplan.sdk.room import check_names

from .account import Access
from .kinds import GPUS
from .requests import GIB, Disk
from .selling import Wishes

IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
"""AWS's image with NVIDIA's open driver, which every GPU from P5 and G6 on needs, Docker, and the container toolkit."""
ORPHAN_AFTER = 1800.0
IDLE = 300.0

SUBSTITUTES = "EC2 does not have every GPU: `substitutes` of the region names those that may stand in for another"

NAMES = (
    "region",
    "max_machines",
    "instance_types",
    "substitutes",
    "spot",
    "on_demand_base",
    "warm",
    "idle_timeout",
    "orphan_after",
    "vpc",
    "subnets",
    "public",
    "ssh_from",
    "image",
    "disk",
    "instance_profile",
    "profile",
    "role",
    "external_id",
    "endpoints",
    "tags",
)


@dataclass(frozen=True, slots=True)
class Options:
    """A region's options. `image` is an id or the path of an SSM parameter; `orphan_after` in seconds."""

    access: Access
    terms: Terms
    wishes: Wishes
    image: str
    disk: Disk
    orphan_after: float
    ssh_from: tuple[str, ...] = ()
    instance_profile: str = ""
    tags: tuple[tuple[str, str], ...] = ()


def options_of(region: str, options: Mapping[str, Json]) -> Options:
    """Read them.

    Raises:
        FalplanError: an option is unknown, missing or has no meaning, with its name.
    """
    check_names(region, "", options, NAMES)
    if not options.get("region"):
        raise FalplanError("Invalid region", f"regions.{region} says no `region`, which is AWS's name of it.")
    text = {name: str(options.get(name) or "") for name in ("vpc", "profile", "role", "external_id")}
    access = Access(
        str(options["region"]),
        text["profile"],
        text["role"],
        text["external_id"],
        {k: str(v) for k, v in _mapping(options, "endpoints").items()},
    )
    wishes = Wishes(
        text["vpc"],
        tuple(_list(options, "subnets")),
        options.get("spot") is True,
        _substitutes(region, _mapping(options, "substitutes")),
        tuple(_list(options, "instance_types")),
        options.get("public") is not False,
        int(cast("int", options.get("on_demand_base") or 0)),
    )
    return Options(
        access,
        _terms(region, options),
        wishes,
        str(options.get("image") or IMAGE),
        _disk(_mapping(options, "disk")),
        float(cast("float", options.get("orphan_after") or ORPHAN_AFTER)),
        tuple(_list(options, "ssh_from")),
        str(options.get("instance_profile") or ""),
        tuple(sorted((k, str(v)) for k, v in _mapping(options, "tags").items())),
    )


def _terms(region: str, options: Mapping[str, Json]) -> Terms:
    """Without limits nothing is bought: a region that has left the spec is only to be reached."""
    try:
        most = int(cast("int", options.get("max_machines", 0)))
    except (ValueError, TypeError):
        raise FalplanError("Invalid region", f"regions.{region}: max_machines must be a number.") from None
    idle = float(cast("float", options.get("idle_timeout") or IDLE))
    after = float(cast("float", options.get("orphan_after") or ORPHAN_AFTER))
    return Terms(most, None, idle, "`falplan aws prices` fetches prices", SUBSTITUTES, ends_after=after)


def _substitutes(region: str, written: Mapping[str, Json]) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for machine_type, gpus in written.items():
        names = [str(g) for g in gpus] if isinstance(gpus, list) else [str(gpus)]
        unknown = [name for name in names if name not in GPUS]
        if unknown:
            detail = (
                f"regions.{region}.substitutes.{machine_type}: EC2 sells no {', '.join(unknown)}. "
                f"It has {', '.join(sorted(GPUS))}."
            )
            raise FalplanError("Invalid region", detail)
        found[machine_type] = names
    return found


def _disk(written: Mapping[str, Json]) -> Disk:
    given = {name: int(cast("int", value)) for name, value in written.items()}
    if "size" in given:
        given["size"] = -(-given["size"] // GIB)
    return Disk(**given)


def _mapping(options: Mapping[str, Json], name: str) -> JsonObject:
    return cast("JsonObject", options.get(name) or {})


def _list(options: Mapping[str, Json], name: str) -> list[str]:
    written = options.get(name) or []
    return [str(one) for one in written] if isinstance(written, list) else [str(written)]
