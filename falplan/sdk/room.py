"""How a region wants its machines used, out of its options. Knows nothing of the machines."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from falplan.core.errors import FalplanError
from falplan.core.values import Json
from falplan.sdk.values import Room

NAMES = ("reserve", "capacity", "strict")
"""The options that are read here."""
_DECIMAL = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {**_DECIMAL, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def room_of(region: str, options: Mapping[str, Json]) -> Room:
    """Read `reserve: {vcpu, ram, gpus}`, `capacity: {vcpu, ram}` and `strict`. RAM as bytes or as `4 GiB`.

    `region` is what the options are of, for messages.

    Raises:
        FalplanError: an option is unknown or has no meaning, with its name.
    """
    check_names(region, "", options, NAMES)
    reserve = _mapping(region, "reserve", options.get("reserve"))
    capacity = _mapping(region, "capacity", options.get("capacity"))
    check_names(region, "reserve.", reserve, ("vcpu", "ram", "gpus"))
    check_names(region, "capacity.", capacity, ("vcpu", "ram"))
    return Room(
        reserve_vcpu=_number(region, "reserve.vcpu", reserve.get("vcpu", 0)),
        reserve_ram=_bytes(region, "reserve.ram", reserve.get("ram", 0)),
        reserve_gpus=_count(region, reserve.get("gpus", 0)),
        capacity_vcpu=_number(region, "capacity.vcpu", capacity["vcpu"]) if "vcpu" in capacity else None,
        capacity_ram=_bytes(region, "capacity.ram", capacity["ram"]) if "ram" in capacity else None,
        strict=_truth(region, options.get("strict", False)),
    )


def _wrong(region: str, name: str, value: Json, wanted: str) -> FalplanError:
    return FalplanError("Invalid region", f"regions.{region}.{name} is {value!r}; it must be {wanted}.")


def check_names(region: str, prefix: str, options: Mapping[str, Json], names: tuple[str, ...]) -> None:
    """Refuse an option that nobody reads.

    Raises:
        FalplanError: it is named, with the nearest one that there is.
    """
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f' Did you mean "{prefix}{near[0]}"?' if near else f" There are: {', '.join(names)}."
            raise FalplanError("Unknown region option", f"regions.{region}.{prefix}{name} means nothing here.{hint}")


def _mapping(region: str, name: str, value: Json) -> Mapping[str, Json]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(region, name, value, "a mapping")
    return value


def _number(region: str, name: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise _wrong(region, name, value, "a number that is not negative")
    return float(value)


def _bytes(region: str, name: str, value: Json) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", value.strip().upper())
        unit = match and _UNITS.get(match[2] if match[2].endswith("B") or not match[2] else match[2] + "B")
        if match and unit:
            return int(float(match[1]) * unit)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _wrong(region, name, value, "bytes, as 4 GiB")
    return int(value)


def _count(region: str, value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(region, "reserve.gpus", value, "a number of GPUs")
    return value


def _truth(region: str, value: Json) -> bool:
    if not isinstance(value, bool):
        raise _wrong(region, "strict", value, "true or false")
    return value
