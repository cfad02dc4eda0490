"""The resources that a spec asks for: addresses, inputs, direct dependencies. Knows nothing of what exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import cast

from falplan.core.errors import Position
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.spec.resolved import AppKind, Origin, ResolvedApp, ResolvedSpec
from falplan.core.spending import budgets_to_json, prices_to_json
from falplan.core.values import Json, JsonObject
from falplan.core.warm import warm_of, warm_to_json

GATEWAY = "gateway"


class ResourceType(StrEnum):
    """The kinds of resource that plan, state and apply deal with."""

    GATEWAY = "gateway"
    BUILD = "build"
    SECRET = "secret"  # noqa: S105 - a kind of resource
    APP = "app"
    HOST = "host"
    NETWORK = "network"
    SECURITY_GROUP = "security_group"
    LAUNCH_TEMPLATE = "launch_template"


PROVIDED = frozenset(
    {ResourceType.HOST, ResourceType.NETWORK, ResourceType.SECURITY_GROUP, ResourceType.LAUNCH_TEMPLATE}
)
"""Types that providers own: how they are made, changed and removed is theirs."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that the spec wants to exist.

    `address` is stable: `gateway`, `build.main.hello`, `secret.main.HF_TOKEN`, `app.main.hello`. `inputs` are what a person
    wrote or a default filled in; `origins` maps the first path element, or `settings.<name>`, to where the value comes from.
    `dependencies` are direct ones only. `protected`: nothing may destroy or replace it; its inputs say so too, as `protect`, so that
    a change of it is a change like any other.

    The rest is for resources that providers own, and as in `falplan.core.provided.Declared`.
    """

    address: str
    type: ResourceType
    inputs: JsonObject
    dependencies: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)
    position: Position | None = None
    protected: bool = False
    immutable: frozenset[str] = frozenset()
    create_first: bool = False
    known_after: tuple[str, ...] = ()
    managed: bool = True
    because: Mapping[str, str] = field(default_factory=dict)


PROTECT: JsonObject = {"protect": True}
"""What the inputs of a protected resource have beside its own."""


def endpoint_of(owner: str, name: str, environment: str) -> str:
    """fal's endpoint id: `owner/name` in main, `owner/name--environment` elsewhere."""
    return f"{owner}/{name}" if environment == "main" else f"{owner}/{name}--{environment}"


def app_address(environment: str, name: str) -> str:
    return f"app.{environment}.{name}"


def build_address(environment: str, name: str) -> str:
    return f"build.{environment}.{name}"


def secret_address(environment: str, name: str) -> str:
    return f"secret.{environment}.{name}"


def machine_of(host: str) -> str:
    """The machine id of a host, by its address: `dc1/gpu-01` for `host.dc1.gpu-01`."""
    return host.split(".", 1)[1].replace(".", "/", 1)


def host_address(machine_id: str) -> str:
    """The inverse of `machine_of`."""
    return f"{ResourceType.HOST}.{machine_id.replace('/', '.', 1)}"


def type_of(address: str) -> ResourceType:
    """The resource type that an address starts with."""
    return _TYPES.get(address.partition(".")[0]) or ResourceType(address.partition(".")[0])


_TYPES = {kind.value: kind for kind in ResourceType}


def environment_of(address: str) -> str | None:
    """The environment in an address; None for what the whole project shares."""
    parts = address.split(".")
    return parts[1] if parts[0] in ("app", "build", "secret") else None


def addresses_of(spec: ResolvedSpec) -> set[str]:
    """The addresses of everything that the spec asks for."""
    builds = {build_address(app.environment, app.name) for app in spec.apps if needs_build(app)}
    return {GATEWAY, *builds, *(app.address for app in spec.apps), *(secret.address for secret in spec.secrets)}


@dataclass(frozen=True, slots=True)
class ByProviders:
    """What the providers of a spec's regions ask for: resources by region, and the options that declare them."""

    resources: Mapping[str, tuple[Resource, ...]] = field(default_factory=dict)
    options: Mapping[str, frozenset[str]] = field(default_factory=dict)


def desired_resources(
    spec: ResolvedSpec,
    secrets: Mapping[str, JsonObject] = {},
    *,
    release: str = "",
    provided: ByProviders = ByProviders(),
) -> dict[str, Resource]:
    """Every resource that the spec asks for, by address, sorted. `release` is the falplan that the gateway is to run, if known.

    `secrets` holds the inputs of secrets as they were gathered: source and fingerprint. One that is not there has its source alone.
    """
    wanted = [_gateway(spec, release, provided)]
    wanted += [r for region in provided.resources.values() for r in region]
    places = {name: tuple(r.address for r in found) for name, found in provided.resources.items()}
    for secret in spec.secrets:
        inputs = secrets.get(secret.address, {"source": dict(secret.source)})
        if secret.protect:
            inputs = {**inputs, **PROTECT}
        wanted.append(
            Resource(
                secret.address,
                ResourceType.SECRET,
                inputs,
                (GATEWAY,),
                {"source": Origin.SPEC, "protect": Origin.SPEC},
                secret.position,
                secret.protect,
            )
        )
    names, built_in = _secret_names(spec), _built_in(spec)
    for app in spec.apps:
        if needs_build(app):
            wanted.append(_build(app, places))
        wanted.append(_app(spec, app, names.get(app.environment, ()), places, built_in))
    return {r.address: r for r in sorted(wanted, key=lambda r: r.address)}


def _secret_names(spec: ResolvedSpec) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for secret in spec.secrets:
        names.setdefault(secret.environment, []).append(secret.name)
    return {environment: tuple(sorted(found)) for environment, found in names.items()}


def needs_build(app: ResolvedApp) -> bool:
    """Whether the app needs an image, or runs in an environment of its own: every fal.App, and commands that ask for one."""
    return (
        app.kind in (AppKind.FAL, AppKind.IMAGE) or bool(app.settings["requirements"].value) or _python(app) is not None
    )


def _python(app: ResolvedApp) -> Json:
    return app.settings["python_version"].value


def _gateway(spec: ResolvedSpec, release: str, provided: ByProviders) -> Resource:
    # What declares resources of their own is no setting of the control plane: a new host does not change the gateway.
    regions: JsonObject = {
        name: {
            "provider": r.provider,
            **{k: v for k, v in r.options.items() if k not in provided.options.get(name, ())},
        }
        for name, r in sorted(spec.regions.items())
    }
    inputs: JsonObject = {"project": spec.project, **dict(spec.gateway), "regions": regions}
    if release:
        inputs["falplan"] = release
    if way := _way(str(spec.gateway.get("host") or ""), provided):
        inputs["home"] = way
    inputs |= {name: body for name, body in _money(spec).items() if body}
    if spec.protect_gateway:
        inputs |= PROTECT
    place = spec.positions.get("gateway")
    origins = dict.fromkeys(inputs.keys() - {"falplan"}, Origin.SPEC)
    for name, key in (("provider", "gateway.provider"), ("regions", "regions")):
        if key not in spec.positions:
            origins[name] = Origin.DEFAULT
    return Resource(GATEWAY, ResourceType.GATEWAY, inputs, (), origins, place, spec.protect_gateway)


def _way(host: str, provided: ByProviders) -> JsonObject:
    """What leads to the host that the control plane lives on: {provider, region, host, home}. Recorded before anything is done there."""
    region, _, name = host.partition("/")
    for one in provided.resources.get(region, ()):
        if host and one.address == f"{ResourceType.HOST}.{region}.{name}":
            return {
                "provider": one.inputs["provider"],
                "region": region,
                "host": name,
                "home": one.inputs.get("home", {}),
            }
    return {}


def _money(spec: ResolvedSpec) -> JsonObject:
    """Prices and budgets, which the control plane is told: it launches nothing beyond them. And the room that it keeps free."""
    money: JsonObject = {"prices": prices_to_json(prices_of(spec)), "budgets": budgets_to_json(spec.budgets)}
    return {**money, "warm": warm_to_json(warm_of(spec))}


def prices_of(spec: ResolvedSpec) -> dict[str, dict[str, Decimal]]:
    """What a runner costs in each region, by machine type: the region's own price, else the type's. USD an hour."""
    own = {name: t.price_per_hour for name, t in spec.machine_types.items() if t.price_per_hour is not None}
    return {name: {**own, **region.prices} for name, region in spec.regions.items()}


def _build(app: ResolvedApp, places: Mapping[str, tuple[str, ...]]) -> Resource:
    if app.kind is AppKind.IMAGE:
        return _fetched(app, places)
    inputs: JsonObject = {
        "kind": app.kind.value,
        "requirements": app.settings["requirements"].value,
        "python_version": _python(app),
    }
    origins = {name: app.settings[name].origin for name in ("requirements", "python_version")}
    origins["kind"] = Origin.SPEC
    address = build_address(app.environment, app.name)
    return Resource(address, ResourceType.BUILD, inputs, (GATEWAY, *_places_of(app, places)), origins, app.position)


def _fetched(app: ResolvedApp, places: Mapping[str, tuple[str, ...]]) -> Resource:
    """The build of an app that has been built elsewhere: its image, on the machines where it may run."""
    address = build_address(app.environment, app.name)
    inputs: JsonObject = {"kind": app.kind.value, "image": app.image}
    origins = dict.fromkeys(("kind", "image"), Origin.SPEC)
    return Resource(address, ResourceType.BUILD, inputs, (GATEWAY, *_places_of(app, places)), origins, app.position)


def _places_of(app: ResolvedApp, places: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Addresses of what the app's regions have: its runners have to be put somewhere, and its requirements locked for that."""
    regions = cast("list[str] | None", app.settings["regions"].value) or sorted(places)
    return [address for region in regions for address in places.get(region, ())]


def _built_in(spec: ResolvedSpec) -> frozenset[str]:
    """Machine types whose size the spec leaves as fal's table has it."""
    return frozenset(
        name for name, t in spec.machine_types.items() if replace(t, price_per_hour=None) == BUILT_IN.get(name)
    )


def need_to_json(app: ResolvedApp, spec: ResolvedSpec) -> JsonObject:
    """What the app's runners ask of a machine: `regions`, `num_gpus`, and `machine_types` with their sizes."""
    asked: JsonObject = {name: app.settings[name].value for name in ("regions", "num_gpus")}
    return {**asked, "machine_types": _sizes(spec, app)}


def _sizes(spec: ResolvedSpec, app: ResolvedApp) -> JsonObject:
    """The machine types that the app names, with their sizes: another size is another revision."""
    names = cast("list[str]", app.settings["machine_type"].value)
    sizes: JsonObject = {}
    for name in names:
        t = spec.machine_types[name]
        sizes[name] = {"vcpu": t.vcpu, "ram": t.ram, "gpu": t.gpu, "gpus": t.gpus, "vram": t.vram}
    return sizes


def _app(
    spec: ResolvedSpec,
    app: ResolvedApp,
    secrets: tuple[str, ...],
    places: Mapping[str, tuple[str, ...]],
    built_in: frozenset[str],
) -> Resource:
    # The names that the app gets stand beside its settings, and only if there are any: whether they were listed changes nothing.
    settings: JsonObject = {name: app.settings[name].value for name in APP_FIELDS if name != "secrets"}
    if not settings["tags"]:
        del settings["tags"]  # what was applied before there were tags has none either
    inputs: JsonObject = {
        "endpoint": endpoint_of(spec.owner, app.name, app.environment),
        "kind": app.kind.value,
        "files": dict(app.bundle.hashes()),
        "settings": settings,
        "machine_types": _sizes(spec, app),
    }
    if app.kind is AppKind.FAL:
        inputs["entry"] = app.entry
    elif app.command:
        inputs["command"] = list(app.command)
    if app.kind is AppKind.IMAGE:
        inputs |= {"image": app.image, **({"port": app.port} if app.port else {})}
    listed = cast("list[str] | None", app.settings["secrets"].value)
    given = secrets if listed is None else tuple(sorted(set(listed)))
    if given:
        inputs["secrets"] = list(given)
    if app.protect:
        inputs |= PROTECT
    before = [app_address(app.environment, other) for other in app.depends_on]
    own = [build_address(app.environment, app.name)] if needs_build(app) else [GATEWAY]
    own += [secret_address(app.environment, name) for name in given]
    own += _places_of(app, places)
    origins = {f"settings.{name}": app.settings[name].origin for name in APP_FIELDS}
    origins["secrets"] = Origin.SPEC if listed is None else app.settings["secrets"].origin
    origins |= dict.fromkeys(("endpoint", "kind", "entry", "command", "image", "port"), Origin.SPEC)
    origins["protect"] = Origin.OVERLAY if "protect" in app.overlaid else Origin.SPEC
    for name in cast("list[str]", app.settings["machine_type"].value):
        origins[f"machine_types.{name}"] = Origin.DEFAULT if name in built_in else Origin.SPEC
    return Resource(app.address, ResourceType.APP, inputs, (*own, *before), origins, app.position, app.protect)
