"""Loads a spec: files in, everything that a plan is made from out. Runs no code of apps; writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from falplan.core.errors import Position, SpecInvalid
from falplan.core.resources import addresses_of
from falplan.core.spec.codes import Code
from falplan.core.spec.declared import Refactors
from falplan.core.spec.models import EnvironmentModel, SpecModel
from falplan.core.spec.resolved import MachineType, ResolvedApp, ResolvedRegion, ResolvedSecret, ResolvedSpec
from falplan.core.spec.secrets import looks_secret
from falplan.core.spec.tree import Map, Node, Scalar, at, leaves, map_like, put
from falplan.core.spending import Budgets
from falplan.core.values import Json
from falplan.stores.spec.apps import Apps, Given
from falplan.stores.spec.bundles import Bundles
from falplan.stores.spec.checks import check_apps, check_secrets
from falplan.stores.spec.expand import MAIN, Expander
from falplan.stores.spec.files import Folder
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.gather import Gathered, gather
from falplan.stores.spec.imports import Imports
from falplan.stores.spec.places import check_gateway_host, check_types, gateway, machine_types, regions
from falplan.stores.spec.refactors import check_refactors, ignored_drift, refactors
from falplan.stores.spec.requirements import Requirements
from falplan.stores.spec.rules import DEFERRED, with_rules, without_deferred
from falplan.stores.spec.state_section import state_section
from falplan.stores.spec.template import Renderer, Scope, is_template
from falplan.stores.spec.validate import validate
from falplan.stores.spec.variables import variable_values

MOST_APPS = 20_000
BUDGET = "budget_per_hour"
UNTEMPLATED = ("version", "project", "variables")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A resolved spec with what it was made from, for whoever has to tell later whether it would come out the same.

    `apps` resolved its apps; None if it has none. `variables` are the environment's variables that it names.
    """

    spec: ResolvedSpec
    findings: Findings
    apps: Apps | None
    variables: tuple[str, ...]


def load_spec(
    folder: Path,
    file: Path | None = None,
    *,
    variables: Mapping[str, str] = {},
    variable_files: Sequence[Path] = (),
    environ: Mapping[str, str] = {},
    providers: Collection[str] = ("local",),
) -> ResolvedSpec:
    """Load `file`, or falplan.yaml of `folder`; a `file` that is a folder stands for all its *.yaml and *.yml.

    `environ` is looked at only for variables that name one in it. `providers` are those whose regions may be used; options
    of any but `local` are left to the provider.

    Raises:
        SpecInvalid: with everything that is wrong, in order of position. Nothing was touched.
    """
    return load_whole(folder, file, variables, variable_files, environ, providers).spec


def load_whole(
    folder: Path,
    file: Path | None,
    variables: Mapping[str, str],
    variable_files: Sequence[Path],
    environ: Mapping[str, str],
    providers: Collection[str],
) -> Loaded:
    """As `load_spec`, with what the spec was made from.

    Raises:
        SpecInvalid
    """
    findings = Findings()
    try:
        gathered = gather(folder, file, findings)
        findings.raise_if_failed()
        with Renderer(findings) as renderer:
            loader = _Loader(gathered, findings, renderer, frozenset(providers))
            spec = loader.load(variables, variable_files, environ)
            return Loaded(spec, findings, loader.resolved_by, _environment_variables(gathered.tree))
    except Stop as exc:
        raise SpecInvalid(findings.sorted()) from exc


@dataclass(slots=True)
class _Loader:
    """One load, from tree to resolved spec."""

    gathered: Gathered
    findings: Findings
    renderer: Renderer
    providers: frozenset[str]
    apps: list[ResolvedApp] = field(default_factory=list)
    gateway: dict[str, Json] = field(default_factory=dict)
    state: dict[str, Json] = field(default_factory=dict)
    resolved_by: Apps | None = None

    def load(self, given: Mapping[str, str], files: Sequence[Path], environ: Mapping[str, str]) -> ResolvedSpec:
        tree, findings = self.gathered.tree, self.findings
        self.check_version()
        self.refuse_early_templates()
        declared = tree.get("variables")
        if declared is not None and not isinstance(declared, Map):
            declared = None  # the model says what is wrong
        values = variable_values(declared, given, files, environ, findings)
        scope: dict[str, Json] = {"var": dict(values), "project": str(tree.get("project", ""))}
        head = self.head(scope)
        if head is None:
            raise Stop("the head can't be read")
        model = validate(SpecModel, head, findings, section="")
        if model is None:
            # apps are still looked at, so that one run tells as much as it can
            self.resolve_apps(SpecModel(version=1, project="unknown"), scope, {}, {}, check=False)
            raise Stop("the head is invalid")
        types = machine_types(model.machine_types, head.get("machine_types"), findings)
        places = regions(head.get("regions"), self.providers, findings)
        check_types(places, types, head.get("regions"), findings)
        self.gateway = gateway(model.gateway, head.get("gateway"), findings)
        check_gateway_host(self.gateway.get("host"), places, head.get("gateway"), findings)
        self.state = state_section(model.state, head.get("state"), model.project, findings)
        self.resolve_apps(model, scope, types, places, check=True)
        findings.raise_if_failed()
        self.warn_of_secrets()
        spec = with_rules(self.spec(model, types, places, values), model, head, self.renderer, findings)
        if spec.refactors != Refactors():
            check_refactors(spec.refactors, addresses_of(spec), findings)
        findings.raise_if_failed()
        self.warn_of_secrets()
        return spec

    def warn_of_secrets(self) -> None:
        """Whatever has the shape of a credential, wherever it stands: what an app gets was refused before."""
        if not any(looks_secret("", source.text) for source in self.findings.sources.values()):
            return
        hint = (
            "everybody who reads the spec has it: revoke it, and use a role, a profile, or a secret of the environment"
        )
        for leaf in leaves(self.gathered.tree):
            if looks_secret("", leaf):
                self.findings.warn(Code.LITERAL_SECRET, "this looks like a secret", leaf, hint=hint)

    def check_version(self) -> None:
        tree = self.gathered.tree
        version = tree.get("version")
        if version is None:
            start = Position(tree.start.name, 1, 1)
            raise self.findings.stop(Code.VERSION, "the key `version` is missing", start, hint="add `version: 1`")
        if (
            isinstance(version, Scalar)
            and version.plain
            and version.isdecimal()
            and len(version) < 9
            and int(version) > 1
        ):
            message = f"spec version {int(version)} needs a newer falplan"
            raise self.findings.stop(Code.VERSION, message, version, hint="this one reads version 1")

    def refuse_early_templates(self) -> None:
        tree = self.gathered.tree
        for name in UNTEMPLATED:
            for leaf in _templates(tree.get(name)):
                self.findings.add(Code.TEMPLATE, f"no templates in `{name}`", leaf, hint="write the value itself")
        for section in ("regions", "machine_types", "environments"):
            entries = tree.get(section)
            for key in entries.keys_at.values() if isinstance(entries, Map) else ():
                if is_template(key):
                    self.findings.add(Code.TEMPLATE, f"no templates in names under `{section}`", key)

    def head(self, scope: Mapping[str, Json]) -> Map | None:
        """The spec without its apps and what environments say of apps, rendered."""
        head = map_like(self.gathered.tree)
        failed = False
        for name, value in self.gathered.tree.items():
            if name == "apps" and isinstance(value, Map):
                continue
            body: Node | None = value
            if name == "environments":
                body = self.environments(value, scope)
            elif name in DEFERRED:
                body = without_deferred(name, value, self.renderer, Scope.of(scope))
            elif name not in UNTEMPLATED:
                body = self.renderer.tree(value, Scope.of(scope))
            if body is None:
                failed = True
                continue
            put(head, self.gathered.tree.keys_at[name], body)
        return None if failed else head

    def environments(self, tree: Node, scope: Mapping[str, Json]) -> Node | None:
        """The environments rendered, but for what they say of apps, which is rendered with the apps."""
        if not isinstance(tree, Map) or not tree.templated:
            return tree
        made = map_like(tree)
        for name, body in tree.items():
            rendered = (
                self.environment(body, Scope.of({**scope, "environment": name})) if isinstance(body, Map) else body
            )
            if rendered is None:
                return None
            put(made, tree.keys_at[name], rendered)
        return made

    def environment(self, body: Map, scope: Scope) -> Map | None:
        made = map_like(body)
        for key, value in body.items():
            rendered = value if key == "apps" else self.renderer.tree(value, scope)
            if rendered is None:
                return None
            put(made, body.keys_at[key], rendered)
        return made

    def resolve_apps(
        self,
        model: SpecModel,
        scope: Mapping[str, Json],
        types: Mapping[str, MachineType],
        places: Mapping[str, ResolvedRegion],
        *,
        check: bool,
    ) -> None:
        tree = self.gathered.tree
        written, environments = tree.get("apps"), tree.get("environments")
        if not isinstance(written, Map):
            return
        overlays = environments if isinstance(environments, Map) else None
        expander = Expander(written, overlays, model.environments, scope, self.renderer, self.findings)
        resolver = self.resolved_by = self.resolver(model)
        names: dict[str, set[str]] = {name: set() for name in (MAIN, *model.environments)}
        for number, instance in enumerate(expander.instances()):
            if number >= MOST_APPS:
                message = f"more than {MOST_APPS:,} apps in all environments"
                raise self.findings.stop(Code.TOO_LARGE, message, instance.key)
            names[instance.environment].add(instance.name)
            app = resolver.resolve(instance)
            if app is not None:
                self.apps.append(app)
        if check:
            frozen = {name: frozenset(known) for name, known in names.items()}
            check_apps(self.apps, frozen, types, places, resolver.item_position, self.findings)
            secrets = {
                name: frozenset(body.secrets) if body else frozenset() for name, body in model.environments.items()
            }
            check_secrets(self.apps, secrets, resolver.item_position, self.findings)

    def resolver(self, model: SpecModel) -> Apps:
        root = self.gathered.root
        folder = Folder(root)
        bundles = Bundles(folder, Imports(root, self.findings), self.findings, frozenset(self.gathered.sources))
        bodies = {name: body or EnvironmentModel() for name, body in model.environments.items()}
        given = {
            name: Given({**model.tags, **body.tags}, body.protect, bool(body.tags))
            for name, body in {MAIN: EnvironmentModel(), **bodies}.items()
        }
        return Apps(bundles, Requirements(folder, self.findings), self.findings, given)

    def spec(
        self,
        model: SpecModel,
        types: Mapping[str, MachineType],
        places: Mapping[str, ResolvedRegion],
        values: Mapping[str, Json],
    ) -> ResolvedSpec:
        environments = (MAIN, *(name for name in model.environments if name != MAIN))
        return ResolvedSpec(
            project=model.project,
            owner=model.owner or model.project,
            folder=str(self.gathered.root),
            sources=self.gathered.sources,
            environments=environments,
            apps=tuple(self.apps),
            regions=places,
            machine_types=types,
            gateway=self.gateway,
            state=self.state,
            positions=_positions(self.gathered.tree),
            warnings=self.findings.sorted(),
            secrets=tuple(_secrets(model, self.gathered.tree)),
            refactors=refactors(model, self.gathered.tree),
            ignored_drift=ignored_drift(model),
            variables=values,
            protect_gateway=model.gateway.protect,
            budgets=Budgets(
                model.budget_per_hour,
                {
                    name: body.budget_per_hour
                    for name, body in model.environments.items()
                    if body is not None and body.budget_per_hour is not None
                },
                {name: place.budget for name, place in places.items() if place.budget is not None},
            ),
        )


def _positions(tree: Map) -> dict[str, Position]:
    """Where each section, each entry of a section as `regions.here`, and each budget below one, is defined."""
    found = {name: at(key.start) for name, key in tree.keys_at.items()}
    for section, body in tree.items():
        if not isinstance(body, Map) or section == "apps":
            continue
        found |= {f"{section}.{name}": at(key.start) for name, key in body.keys_at.items()}
        for name, entry in body.items():
            if isinstance(entry, Map) and BUDGET in entry:
                found[f"{section}.{name}.{BUDGET}"] = at(entry.keys_at[BUDGET].start)
    return found


def _environment_variables(tree: Map) -> tuple[str, ...]:
    declared = tree.get("variables")
    bodies = declared.values() if isinstance(declared, Map) else ()
    return tuple(sorted({str(body["env"]) for body in bodies if isinstance(body, Map) and "env" in body}))


def _secrets(model: SpecModel, tree: Map) -> Iterator[ResolvedSecret]:
    written = tree.get("environments")
    for environment, body in model.environments.items():
        inside = written.get(environment) if isinstance(written, Map) else None
        secrets = inside.get("secrets") if isinstance(inside, Map) else None
        for name, source in body.secrets.items() if body else ():
            key = secrets.keys_at.get(name) if isinstance(secrets, Map) else None
            known = {kind: value for kind, value in source.model_dump().items() if value is not None}
            protect = body is not None and body.protect
            yield ResolvedSecret(environment, name, known, at(key.start) if key else None, protect)


def _templates(node: Node | None) -> list[Scalar]:
    if node is None:
        return []
    if isinstance(node, Scalar):
        return [node] if is_template(node) else []
    children = node.values() if isinstance(node, Map) else node
    keys = [key for key in node.keys_at.values() if is_template(key)] if isinstance(node, Map) else []
    return keys + [leaf for child in children for leaf in _templates(child)]
