"""A revision's definition: everything that a runner of it needs, immutable, with an id that is its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from falplan.core.placement import Need
from falplan.core.spec.fields import APP_FIELDS, Binding
from falplan.core.spec.resolved import MachineType
from falplan.core.values import Json, JsonObject, digest


@dataclass(frozen=True, slots=True)
class Definition:
    """What is the same for every runner of a revision.

    `settings` are the code-bound ones. `lock` is the digest of the locked requirements, None for a command that runs in no
    environment of its own; `bundle` the digest of the files. `secrets` maps the names that the app gets to the version of each.
    """

    kind: str
    entry: str
    command: tuple[str, ...]
    settings: JsonObject
    lock: str | None
    bundle: str
    machine_types: Mapping[str, MachineType]
    secrets: Mapping[str, str] = field(default_factory=dict)
    image: str = ""  #: of a container; empty for what is none
    port: int = 0  #: that the container listens on; 0 for the one that it is told

    @property
    def revision(self) -> str:
        """`r-` and 12 hex digits: the same for the same definition. Sizes of machine types count, their order too."""
        return "r-" + digest(definition_to_json(self))[:12]

    def setting(self, name: str) -> Json:
        return self.settings.get(name, APP_FIELDS[name].default)

    def seconds(self, name: str) -> float:
        """A setting that is a number of seconds."""
        return float(cast("float", self.setting(name)))

    def need(self, regions: Json) -> Need:
        """What a runner asks of a machine, with the runtime setting `regions`."""
        names = tuple(str(n) for n in cast("list[Json]", self.setting("machine_type")))
        where = None if regions is None else tuple(str(r) for r in cast("list[Json]", regions))
        return Need(names, cast("int | None", self.setting("num_gpus")), where, engine=bool(self.image))


def make_definition(
    inputs: Mapping[str, Json],
    *,
    lock: str | None,
    bundle: str,
    machine_types: Mapping[str, JsonObject],
    secrets: Mapping[str, str] = {},
) -> Definition:
    """The definition out of an app's planned inputs."""
    settings = cast("JsonObject", inputs["settings"])
    return Definition(
        kind=str(inputs["kind"]),
        entry=str(inputs.get("entry", "")),
        command=tuple(str(c) for c in cast("list[Json]", inputs.get("command", []))),
        settings=split_settings(settings)[0],
        lock=lock,
        bundle=bundle,
        machine_types={name: machine_type_from_json(name, body) for name, body in machine_types.items()},
        secrets=dict(secrets),
        image=str(inputs.get("image", "")),
        port=int(cast("int", inputs.get("port", 0))),
    )


def inputs_of(definition: Definition, like: Mapping[str, Json]) -> JsonObject:
    """The inputs of a revision that nobody kept, as far as its definition tells them; the rest is that of `like`, its app's.

    No names of files are known: its bundle has them, and they differ from every other revision's.
    """
    body = definition_to_json(definition)
    settings = {**cast("JsonObject", like["settings"]), **definition.settings}
    left_out = ("entry", "command", "secrets", "image", "port")
    inputs: JsonObject = {name: value for name, value in like.items() if name not in left_out}
    inputs |= {"kind": definition.kind, "files": {}, "settings": settings, "machine_types": body["machine_types"]}
    if definition.entry:
        inputs["entry"] = definition.entry
    else:
        inputs["command"] = list[Json](definition.command)
    inputs |= _of_container(definition)
    if definition.secrets:
        inputs["secrets"] = list[Json](sorted(definition.secrets))
    return inputs


def split_settings(settings: Mapping[str, Json]) -> tuple[JsonObject, JsonObject]:
    """(code-bound settings, runtime settings). Left out are requirements, for which the lock stands, and the list of secrets."""
    code: JsonObject = {}
    runtime: JsonObject = {}
    for name, value in settings.items():
        if APP_FIELDS[name].binding is Binding.RUNTIME:
            runtime[name] = value
        elif name not in ("requirements", "python_version", "secrets"):
            code[name] = value
    return code, runtime


def definition_to_json(definition: Definition) -> JsonObject:
    """For storing and digesting."""
    types: JsonObject = {
        name: {"vcpu": t.vcpu, "ram": t.ram, "gpu": t.gpu, "gpus": t.gpus, "vram": t.vram}
        for name, t in definition.machine_types.items()
    }
    body: JsonObject = {
        "kind": definition.kind,
        "entry": definition.entry,
        "command": list(definition.command),
        "settings": definition.settings,
        "lock": definition.lock,
        "bundle": definition.bundle,
        "machine_types": types,
    }
    if definition.secrets:  # left out when there are none, so that revisions without any keep their ids
        body["secrets"] = dict(definition.secrets)
    return {**body, **_of_container(definition)}


def _of_container(definition: Definition) -> JsonObject:
    """Left out where there is none, so that revisions of other apps keep their ids."""
    port: JsonObject = {"port": definition.port} if definition.port else {}
    return {"image": definition.image, **port} if definition.image else {}


def definition_from_json(body: JsonObject) -> Definition:
    """The inverse of `definition_to_json`."""
    types = cast("dict[str, JsonObject]", body["machine_types"])
    return Definition(
        kind=str(body["kind"]),
        entry=str(body["entry"]),
        command=tuple(str(c) for c in cast("list[Json]", body["command"])),
        settings=cast("JsonObject", body["settings"]),
        lock=cast("str | None", body["lock"]),
        bundle=str(body["bundle"]),
        machine_types={name: machine_type_from_json(name, t) for name, t in types.items()},
        secrets=cast("dict[str, str]", body.get("secrets", {})),
        image=str(body.get("image", "")),
        port=int(cast("int", body.get("port", 0))),
    )


def machine_type_from_json(name: str, body: JsonObject) -> MachineType:
    """A machine type by its sizes, as deploys tell them."""
    return MachineType(
        name,
        float(cast("float", body["vcpu"])),
        int(cast("int", body["ram"])),
        cast("str | None", body["gpu"]),
        int(cast("int", body["gpus"])),
        int(cast("int", body["vram"])),
    )
