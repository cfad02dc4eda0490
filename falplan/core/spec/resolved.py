"""The spec as the planner sees it: every variable, overlay, class attribute and default already resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from falplan.core.errors import Diagnostic, Position
from falplan.core.spec.declared import IgnoreRule, Refactors
from falplan.core.spending import Budgets
from falplan.core.values import Json, JsonObject


class Origin(StrEnum):
    """Where a setting's value comes from; the later of these wins over the earlier."""

    DEFAULT = "platform default"
    CLASS = "class"
    SPEC = "spec"
    OVERLAY = "overlay"


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value of an app, where it comes from, and the place that says so (None for defaults)."""

    value: Json
    origin: Origin
    position: Position | None = None


class AppKind(StrEnum):
    """How an app is run."""

    FAL = "fal"  #: `app: file.py::Class`, an unmodified fal.App
    COMMAND = "command"  #: `command: …`, any server that listens on $PORT
    IMAGE = "image"  #: `image: …`, a server in a container


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file that travels with an app. `path` is relative to the bundle's root, with forward slashes."""

    path: str
    sha256: str
    size: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of an app's revision, sorted by path. `root` is the absolute folder that they are read from."""

    root: str
    files: tuple[BundleFile, ...]

    def hashes(self) -> dict[str, str]:
        """path -> SHA-256; files with the executable bit carry `+x` behind it."""
        return {f.path: f.sha256 + ("+x" if f.executable else "") for f in self.files}


@dataclass(frozen=True, slots=True)
class ResolvedApp:
    """One app in one environment.

    `settings` holds a value for every name in `falplan.core.spec.fields.APP_FIELDS`, whatever its origin.
    `entry` is `path.py::Class` relative to the bundle's root for fal apps and empty for commands; `command` the argv for
    commands (a string in the spec is split as a POSIX shell would; it is run without a shell), and what overrides an image's own.
    """

    name: str
    environment: str
    kind: AppKind
    entry: str
    command: tuple[str, ...]
    settings: Mapping[str, Setting]
    bundle: Bundle
    position: Position
    depends_on: tuple[str, ...] = ()
    depends_on_positions: tuple[Position, ...] = ()
    protect: bool = False  #: nothing may destroy or replace it
    overlaid: frozenset[str] = frozenset()  #: its keys that an environment's overlay says, settings among them
    image: str = ""  #: of a container
    port: int = 0  #: that the container listens on; 0: the one that it is told

    @property
    def address(self) -> str:
        """`app.<environment>.<name>`."""
        return f"app.{self.environment}.{self.name}"


@dataclass(frozen=True, slots=True)
class ResolvedSecret:
    """One secret of one environment. `source` is `{"env": …}`, `{"file": …}`, `{"command": […]}` or `{"stored": True}`."""

    environment: str
    name: str
    source: JsonObject
    position: Position | None = None
    protect: bool = False

    @property
    def address(self) -> str:
        """`secret.<environment>.<NAME>`."""
        return f"secret.{self.environment}.{self.name}"


@dataclass(frozen=True, slots=True)
class MachineType:
    """How much of a machine a runner asks for. RAM and VRAM in bytes; VRAM is that of one GPU; the price in USD, None if not known."""

    name: str
    vcpu: float
    ram: int
    gpu: str | None = None
    gpus: int = 0
    vram: int = 0
    price_per_hour: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ResolvedRegion:
    """A named place that runners may be put. `options` are the provider's own keys, validated by it.

    `prices` are those that a machine type has here and not elsewhere; `budget` is the most that runners may cost here. USD an hour.
    """

    name: str
    provider: str
    options: Mapping[str, Json]
    position: Position | None = None
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    budget: Decimal | None = None


NamesOf = tuple[tuple[str, ...], ...]
"""What an expression reads of its scope, each as the path to it: `("apps", "main", "hello", "url")`."""


@dataclass(frozen=True, slots=True)
class ResolvedCheck:
    """Something that must hold. `assertion` and `error` are templates, not rendered yet; `after`: judged after an apply."""

    name: str
    assertion: str
    error: str
    warns: bool = False
    after: bool = False
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class ResolvedOutput:
    """A value for others. `value` is a template, not rendered yet; `names` is what it reads."""

    name: str
    value: str
    names: NamesOf = ()
    description: str = ""
    sensitive: bool = False
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a policy's rule allows or asks for. Money in USD an hour.

    `tags` maps each required tag to its allowed values; any value is if there are none.
    """

    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    machine_types: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    per_app: Decimal | None = None
    per_environment: Decimal | None = None
    in_all: Decimal | None = None
    runners: int | None = None


@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """A rule that plans are held against: `rule` by name, or `deny` and `error`, templates that are not rendered yet.

    `environments` None means all. `names` is what `deny` reads.
    """

    name: str
    rule: str = ""
    parameters: Parameters = field(default_factory=Parameters)
    deny: str = ""
    error: str = ""
    names: NamesOf = ()
    environments: tuple[str, ...] | None = None
    advisory: bool = False
    position: Position | None = None

    def covers(self, environment: str | None) -> bool:
        """Whether it holds for the environment; what all share (None) belongs to those that hold everywhere."""
        return self.environments is None or environment in self.environments


@dataclass(frozen=True, slots=True)
class ResolvedSpec:
    """Everything a plan is made from.

    `folder` is the absolute folder that relative paths start at. `sources` are the files read, relative to it. `gateway`
    is `{"provider": "local"}` and what stands beside it. `warnings` never stop a plan. `protect_gateway`: nothing may destroy it.
    """

    project: str
    owner: str
    folder: str
    sources: tuple[str, ...]
    environments: tuple[str, ...]
    apps: tuple[ResolvedApp, ...]
    regions: Mapping[str, ResolvedRegion]
    machine_types: Mapping[str, MachineType]
    gateway: Mapping[str, Json]
    state: Mapping[str, Json]
    positions: Mapping[str, Position] = field(default_factory=dict)
    warnings: tuple[Diagnostic, ...] = ()
    secrets: tuple[ResolvedSecret, ...] = ()
    refactors: Refactors = field(default_factory=Refactors)
    ignored_drift: tuple[IgnoreRule, ...] = ()
    variables: Mapping[str, Json] = field(default_factory=dict, repr=False)
    protect_gateway: bool = False
    budgets: Budgets = field(default_factory=Budgets)
    checks: tuple[ResolvedCheck, ...] = ()
    outputs: tuple[ResolvedOutput, ...] = ()
    policies: tuple[ResolvedPolicy, ...] = ()
