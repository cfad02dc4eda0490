"""Which apps run in which environments: for_each, overlays and templates applied. Knows nothing of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from falplan.core.errors import Related
from falplan.core.spec.codes import Code
from falplan.core.spec.models import EnvironmentModel
from falplan.core.spec.tree import Map, Node, Scalar, Seq, at, is_null, json_value, kind, overlay
from falplan.core.spec.words import NAME_RULE, did_you_mean, is_name, quoted
from falplan.core.values import Json
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.template import Renderer, Scope, is_template

MAIN = "main"
MOST = 5_000


@dataclass(frozen=True, slots=True)
class Instance:
    """One app in one environment, as written: nothing is validated yet. `shared` is equal for equal bodies."""

    name: str
    environment: str
    key: Scalar
    body: Map
    overlaid: frozenset[str]
    shared: bool


@dataclass(frozen=True, slots=True)
class _Named:
    """An app of the spec under its final name, before environments."""

    name: str
    written: str
    key: Scalar
    body: Map
    each: Mapping[str, Json] | None


@dataclass(slots=True)
class Expander:
    """Expands the apps of one spec. `scope` is what templates may name everywhere."""

    apps: Map
    environments: Map | None
    models: Mapping[str, EnvironmentModel | None]
    scope: Mapping[str, Json]
    renderer: Renderer
    findings: Findings

    def instances(self) -> Iterator[Instance]:
        """Every app in every environment; `main` first, then by the order in the spec.

        Raises:
            Stop: when a template exhausted its bounds.
        """
        named = self._named()
        for environment in (MAIN, *(name for name in self.models if name != MAIN)):
            listed = self._listed(environment)
            if listed is not None:
                self._check_listed(listed, named)
            for app in named.values():
                yield from self._instance(app, environment, listed)

    def _listed(self, environment: str) -> Map | None:
        """The overlays of an environment by app; None when it has every app as it is."""
        body = self.environments.get(environment) if self.environments else None
        apps = body.get("apps") if isinstance(body, Map) else None
        if isinstance(apps, Map):
            return apps
        if environment == MAIN or (isinstance(apps, Scalar) and apps == "all"):
            return None
        return Map()

    def _check_listed(self, listed: Map, named: Mapping[str, _Named]) -> None:
        known = set(named) | {app.written for app in named.values()} | set(self.apps)
        for name in listed:
            if name not in known:
                self.findings.add(
                    Code.REFERENCE, f"no app {quoted(name)}", listed.keys_at[name], hint=did_you_mean(name, known)
                )
        for name, body in listed.items():
            if not isinstance(body, Map) and not is_null(body):
                self.findings.add(Code.SHAPE, f"expected the settings that differ, found {kind(body)}", body)
            elif isinstance(body, Map):
                self._refuse_identity(body, name)

    def _refuse_identity(self, body: Map, name: str) -> None:
        for key in ("app", "command", "image", "for_each"):
            if key in body:
                message = f"an environment can't change `{key}` of an app"
                self.findings.add(
                    Code.CONFLICT, message, body.keys_at[key], hint=f"set it at apps.{name[:63]}, or write a second app"
                )

    def _instance(self, app: _Named, environment: str, listed: Map | None) -> Iterator[Instance]:
        body, overlaid = app.body, set[str]()
        if listed is not None:
            if environment != MAIN and app.name not in listed and app.written not in listed:
                return
            for name in dict.fromkeys((app.written, app.name)):
                over = listed.get(name)
                if isinstance(over, Map):
                    body = overlay(body, over)
                    overlaid |= set(over)
        shared = not overlaid and not body.templated
        if body.templated:
            rendered = self.renderer.tree(body, self._scope(environment, app.each))
            if not isinstance(rendered, Map):
                return
            body = rendered
        yield Instance(app.name, environment, app.key, body, frozenset(overlaid), shared)

    def _scope(self, environment: str, each: Mapping[str, Json] | None) -> Scope:
        inside: dict[str, Json] = {**self.scope, "environment": environment}
        if each is not None:
            inside["each"] = dict(each)
        return Scope.of(inside)

    def _named(self) -> dict[str, _Named]:
        named: dict[str, _Named] = {}
        for written, body in self.apps.items():
            key = self.apps.keys_at[written]
            if not isinstance(body, Map):
                code, what = (
                    (Code.MISSING, "empty value")
                    if is_null(body)
                    else (Code.SHAPE, f"expected a mapping, found {kind(body)}")
                )
                self.findings.add(code, what, body if str(body) else key, hint="an app has `app:` or `command:`")
                continue
            for app in self._repeated(key, body):
                self._name(app, named)
        return named

    def _name(self, app: _Named, named: dict[str, _Named]) -> None:
        if not is_name(app.name):
            self.findings.add(Code.NAME, f"bad name {quoted(app.name)}", app.key, hint=f"a name is {NAME_RULE}")
        elif app.name in named:
            first = named[app.name].key
            related = [Related(at(first.start), "first here")]
            hint = f"first at {first.start.line + 1}:{first.start.column + 1}"
            self.findings.add(
                Code.DUPLICATE, f"two apps are named {quoted(app.name)}", app.key, hint=hint, related=related
            )
        else:
            named[app.name] = app

    def _repeated(self, key: Scalar, body: Map) -> Iterator[_Named]:
        each = body.get("for_each")
        if each is None:
            name = self.renderer.leaf(key, Scope.of(self.scope)) if is_template(key) else key
            if name is not None:
                yield _Named(str(name), str(key), key, body, None)
            return
        if "each.key" not in key:
            hint = f'name it "{key[:40]}-{{{{ each.key }}}}"' if "{{" not in key else "use {{ each.key }} in it"
            self.findings.add(Code.TEMPLATE, "the name of an app with for_each must use each.key", key, hint=hint)
            return
        rest = Map((name, value) for name, value in body.items() if name != "for_each")
        rest.start, rest.size, rest.height, rest.templated, rest.keys_at = (
            body.start,
            body.size,
            body.height,
            body.templated,
            body.keys_at,
        )
        for item in self._items(each):
            name = self.renderer.leaf(key, Scope.of({**self.scope, "each": dict(item)}))
            if name is not None:
                yield _Named(str(name), str(key), key, rest, item)

    def _items(self, each: Node) -> Iterator[dict[str, Json]]:
        rendered = self.renderer.tree(each, Scope.of(self.scope))
        if rendered is None:
            return
        if isinstance(rendered, Map | Seq) and len(rendered) > MOST:
            self.findings.add(Code.RANGE, f"{len(rendered):,} apps of one for_each", each, hint=f"at most {MOST:,}")
        elif isinstance(rendered, Map) and rendered:
            for name, value in rendered.items():
                yield {"key": name, "value": json_value(value)}
        elif isinstance(rendered, Seq) and rendered:
            yield from self._listed_items(rendered)
        elif isinstance(rendered, Scalar):
            code = Code.MISSING if is_null(rendered) else Code.TYPE
            self.findings.add(code, "expected a list of names, or a mapping of names to values", rendered)
        else:
            self.findings.add(Code.MISSING, "for_each is empty", each, hint="remove the app, or name at least one")

    def _listed_items(self, items: Seq) -> Iterator[dict[str, Json]]:
        for item in items:
            if isinstance(item, Scalar) and not is_null(item):
                yield {"key": str(item), "value": str(item)}
            else:
                self.findings.add(Code.TYPE, f"expected text, found {kind(item)}", item)
