"""Regions and machine types of a spec. Asks no provider anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import cast

from falplan.core.spec.aws import AwsRegion
from falplan.core.spec.codes import Code
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.spec.models import Gateway, MachineTypeModel
from falplan.core.spec.regions import LocalRegion, RegionMoney, SshRegion
from falplan.core.spec.resolved import MachineType, ResolvedRegion
from falplan.core.spec.tree import Map, Node, Scalar, at, is_null, json_value, kind, map_like, put
from falplan.core.spec.words import did_you_mean, quoted
from falplan.core.values import Json
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.validate import validate

OWN: Mapping[str, type[LocalRegion] | type[SshRegion] | type[AwsRegion]] = {
    "local": LocalRegion,
    "ssh": SshRegion,
    "aws": AwsRegion,
}
DEFAULT_REGION = "local"
MONEY = tuple(RegionMoney.model_fields)
"""Keys of every region, whoever gives its machines; the provider is not shown them."""


def machine_types(
    models: Mapping[str, MachineTypeModel], tree: Node | None, findings: Findings
) -> dict[str, MachineType]:
    """fal's table with the spec's own entries laid over it."""
    table = dict(BUILT_IN)
    for name, model in models.items():
        given = {key: value for key, value in model.model_dump().items() if value is not None}
        missing = [key for key in ("vcpu", "ram") if key not in given]
        if name in BUILT_IN:
            table[name] = replace(BUILT_IN[name], **given)
        elif missing:
            key = tree.keys_at[name] if isinstance(tree, Map) else None
            message = f"the new machine type {quoted(name)} says no {' and no '.join(missing)}"
            findings.add(Code.MISSING, message, key, hint=f"add `{missing[0]}:`")
        else:
            table[name] = MachineType(name, **given)
    for name, made in table.items():
        if made.gpu is not None and made.gpus == 0 and name not in BUILT_IN:
            table[name] = replace(made, gpus=1)
    return table


NOT_THERE = {
    "provider": "write one or the other",
    "ephemeral": "a control plane on a host stays: leave it out",
    "url": "write one or the other",
    "ca": "it has a CA of its own, which state knows",
    "tls": "it has a CA of its own; put a proxy before it for a certificate of yours",
}


def check_gateway_host(
    host: Json, regions: Mapping[str, ResolvedRegion], tree: Node | None, findings: Findings
) -> None:
    """Note a gateway on a host that the regions do not have."""
    if not isinstance(host, str) or not isinstance(tree, Map):
        return
    there = []
    for region in regions.values():
        hosts = region.options.get("hosts")
        there += [f"{region.name}/{name}" for name in hosts] if isinstance(hosts, dict) else []
    if host not in there:
        hint = did_you_mean(host, there) or "name a host of a region with `provider: ssh`"
        findings.add(Code.REFERENCE, f"no region has the host {quoted(host)}", tree.get("host"), hint=hint)


def gateway(model: Gateway, tree: Node | None, findings: Findings) -> dict[str, Json]:
    """The gateway as it was written, less what was not and `protect`; `provider` stands in it unless it is one with a `url`."""
    given: dict[str, Json] = {
        k: v for k, v in model.model_dump(exclude={"protect"}).items() if v is not None and v is not False
    }
    keys = tree.keys_at if isinstance(tree, Map) else {}
    if model.host is not None:
        for name in sorted(given.keys() & {"provider", "ephemeral", "url", "ca", "tls"}):
            findings.add(Code.CONFLICT, f"`{name}` does not go with `host`", keys.get(name), hint=NOT_THERE[name])
        return given
    if model.url is None:
        if model.ca is not None:
            findings.add(
                Code.CONFLICT, "`ca` goes with `url`", keys.get("ca"), hint="a local gateway has a CA of its own"
            )
        if model.tls is not None and model.hostname is None:
            message = "`tls` needs `hostname`: the name that callers use and the certificate carries"
            findings.add(Code.MISSING, message, keys.get("tls"), hint="add `hostname:`")
        return {"provider": "local", **given}
    for name in given.keys() - {"url", "ca"}:
        message = f"`{name}` goes with `provider: local`, and `url` names a gateway that exists already"
        findings.add(Code.CONFLICT, message, keys.get(name), hint="write one or the other")
    return given


def regions(tree: Node | None, providers: Collection[str], findings: Findings) -> dict[str, ResolvedRegion]:
    """The spec's regions, or one named `local` which is this machine."""
    if not isinstance(tree, Map) or not tree:
        return {DEFAULT_REGION: ResolvedRegion(DEFAULT_REGION, "local", {})}
    found: dict[str, ResolvedRegion] = {}
    for name, body in tree.items():
        key = tree.keys_at[name]
        region = _region(name, key, body, providers, findings)
        found[name] = region or ResolvedRegion(name, "", {})  # it was noted; who names it makes no error by that
    return found


def _region(
    name: str, key: Scalar, body: Node, providers: Collection[str], findings: Findings
) -> ResolvedRegion | None:
    assert isinstance(body, Map)  # noqa: S101 - the spec's model looked
    provider = body["provider"]
    if not isinstance(provider, Scalar):
        findings.add(Code.TYPE, f"expected text, found {kind(provider)}", provider)
        return None
    if is_null(provider):
        findings.add(Code.MISSING, "empty value", provider, hint="write `provider: local`")
        return None
    if provider in OWN:
        section = "regions" if provider == "local" else str(provider)
        model = validate(OWN[provider], body, findings, section=section, owner=key)
        if model is None:
            return None
        if isinstance(model, SshRegion):
            _check_direct(model, body, findings)
        options: dict[str, Json] = model.model_dump(exclude_none=True, exclude={"provider", *MONEY}, exclude_unset=True)
        if isinstance(model, SshRegion):
            options |= {
                "hosts": {
                    n: h.model_dump(exclude_none=True, exclude_unset=True) if h else {} for n, h in model.hosts.items()
                }
            }
        return ResolvedRegion(name, str(provider), options, at(key.start), model.price_per_hour, model.budget_per_hour)
    if provider in providers:
        options = {k: json_value(value) for k, value in body.items() if k not in ("provider", *MONEY)}
        money = _money(body, key, findings)
        if money is None:
            return None
        place = at(key.start)
        return ResolvedRegion(name, str(provider), options, place, money.price_per_hour, money.budget_per_hour)
    listed = "supported: " + ", ".join(sorted(providers))
    findings.add(Code.REFERENCE, f"unknown provider {quoted(provider)}", provider, hint=listed)
    return None


def _check_direct(model: SshRegion, body: Map, findings: Findings) -> None:
    """Note every host whose runners are to be reached directly, though nobody says where: the host itself is reached through another."""
    hosts = body.get("hosts")
    for name, host in model.hosts.items():
        reach = (host and host.reach) or model.reach
        jump = (host and host.jump) or model.jump
        if reach != "direct" or not jump or (host and host.direct_address):
            continue
        own = hosts.get(name) if isinstance(hosts, Map) else None
        inside = own if isinstance(own, Map) else Map()
        place = inside.get("reach") or inside.get("jump")
        if place is None and isinstance(hosts, Map):
            place = hosts.keys_at.get(name)
        message = f"host {quoted(name)} is reached through {jump}, and its runners are to be reached directly"
        hint = "add `direct_address:`, where the control plane reaches the host's ports, or `reach: ssh`"
        findings.add(Code.CONFLICT, message, place, hint=hint)


def _money(body: Map, owner: Scalar, findings: Findings) -> RegionMoney | None:
    own = map_like(body)
    for name in MONEY:
        if name in body:
            put(own, body.keys_at[name], body[name])
    return validate(RegionMoney, own, findings, section="regions", owner=owner)


def check_types(
    regions: Mapping[str, ResolvedRegion], types: Mapping[str, MachineType], tree: Node | None, findings: Findings
) -> None:
    """Note every machine type that a region has a price of, or keeps room for, and that nothing defines."""
    for name, region in regions.items():
        body = tree.get(name) if isinstance(tree, Map) else None
        named = {"price_per_hour": region.prices, "warm": cast("Mapping[str, Json]", region.options.get("warm") or {})}
        for option, machine_types in named.items():
            written = body.get(option) if isinstance(body, Map) else None
            for machine_type in machine_types:
                if machine_type not in types:
                    key = written.keys_at.get(machine_type) if isinstance(written, Map) else None
                    message = f"unknown machine type {quoted(machine_type)}"
                    findings.add(Code.REFERENCE, message, key, hint=did_you_mean(machine_type, types))
