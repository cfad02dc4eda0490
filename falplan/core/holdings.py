"""The machines that were bought and are there, as a plan and `falplan machines list` tell of them. Decides nothing, and asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from falplan.core.ages import in_words
from falplan.core.plural import count
from falplan.core.report import Row, Section, Tone
from falplan.core.spending import ZERO, dollars
from falplan.core.values import Json, JsonObject

TITLE = "Machines that are there"


def holdings_section(told: Mapping[str, Any], *, now: float, listed: bool = False) -> Section:
    """`told` is as in GET /machines: `machines`, `foreign` and `regions`. No rows where there is nothing to tell.

    `listed`: each machine stands in a table already.
    """
    machines = [m for m in told.get("machines", ()) if m["life"] != "gone"]
    foreign, waiting = list(told.get("foreign", ())), dict(told.get("waiting", {}))
    regions = list(told.get("regions", ()))
    rows = [
        *(_region(region, [m for m in machines if m["region"] == region["region"]]) for region in regions),
        *(_unsettled(m, now) for m in machines if m["life"] != "ready" and not listed),
        *(_foreign(f, now) for f in foreign),
        *(Row(f"{who}: {because}") for who, because in sorted(waiting.items())),
        *(row for region in regions for row in refusals(region, now)),
    ]
    quiet = not (machines or foreign or waiting) and all(not r["closed"] and not r["paused"] for r in regions)
    body: JsonObject = {
        "machines": list[Json](machines),
        "foreign": list[Json](foreign),
        "regions": list[Json](regions),
    }
    return Section("machines", TITLE, () if quiet else tuple(rows), {} if quiet else body)


def unknown_section(seen: Mapping[str, Iterable[Any]], because: str, *, now: float) -> Section:
    """Machines as their provider shows them while no control plane tells of them, by region. `because` says why it tells nothing.

    Whether they are needed is not known, so nothing ends them but `destroy` and themselves.
    """
    rows, told = [], []
    for region, machines in sorted(seen.items()):
        for one in machines:
            text = f"{region}: {_named(one, now)}, of control plane {one['control_plane'] or '(none)'}: nobody knows whether it is needed"
            rows.append(Row(text, Tone.WARNING, (because,) if because else ()))
            told.append({**one, "region": region})
    return Section("machines", TITLE, tuple(rows), {"unknown": list[Json](told)} if told else {})


def _region(region: Any, machines: list[Any]) -> Row:
    spent = sum((Decimal(m["price"]) for m in machines if m["price"]), ZERO)
    text = (
        f"{region['region']}: {count(len(machines), 'machine')} of {region['most']}, "
        f"{dollars(spent)} of {dollars(Decimal(region['budget']))} an hour"
    )
    return Row(text, label=str(region["region"]))


def _unsettled(machine: Any, now: float) -> Row:
    text = f"{machine['machine']}: {machine['kind']}, {_cost(machine)}, {machine['life']} for {in_words(now - machine['since'])}"
    return Row(text, detail=(str(machine["because"]),) if machine["because"] else ())


def _foreign(one: Any, now: float) -> Row:
    text = f"{one['region']}: {_named(one, now)}, belongs to control plane {one['control_plane'] or '(none)'}, not to this one"
    way_out = f"If that one is gone for good: `falplan machines reap --gateway-is-dead {one['control_plane']}` ends it."
    return Row(text, Tone.WARNING, (way_out,))


def refusals(region: Any, now: float) -> list[Row]:
    """Why nothing, or not everything, is bought in a region now."""
    name = region["region"]
    closed = [Row(f"{name}: nothing is bought now: {region['closed']}", Tone.WARNING)] if region["closed"] else []
    paused = [Row(f"{name}: {p['because']} (asked again in {in_words(p['until'] - now)})") for p in region["paused"]]
    return [*closed, *paused]


def _named(one: Any, now: float) -> str:
    return f"{one['identity']} ({one['kind']}, {one['zone']}), {_cost(one)}, for {in_words(now - one['made_at'])}"


def _cost(machine: Any) -> str:
    return f"{dollars(Decimal(machine['price']))} an hour" if machine["price"] else "of unknown price"
