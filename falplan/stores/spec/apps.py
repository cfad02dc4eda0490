"""Resolves one app: model, class, defaults and files become settings with origins. Compares no app with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.spec.models import AppModel, Settings
from falplan.core.spec.resolved import AppKind, Bundle, Origin, ResolvedApp, Setting
from falplan.core.spec.secrets import looks_secret
from falplan.core.spec.tree import Map, Node, Scalar, Seq, at, position
from falplan.core.spec.words import did_you_mean, path_fault, quoted, shell_syntax
from falplan.core.values import Json
from falplan.stores.spec.bundles import Bundles, Glob
from falplan.stores.spec.classes import ClassFacts, read_class
from falplan.stores.spec.expand import Instance
from falplan.stores.spec.files import FileFault, is_file
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.requirements import Requirements
from falplan.stores.spec.validate import validate

DEFAULTS = {name: Setting(known.default, Origin.DEFAULT) for name, known in APP_FIELDS.items()}
WITHOUT_IMAGE = ("app", "app_files", "files", "requirements", "python_version")
"""Keys that say nothing of a container."""
CLASS_DEFAULTS: dict[str, Json] = {"machine_type": ["S"], "keep_alive": 60}
"""What fal.App itself sets before the platform's defaults count."""


@dataclass(frozen=True, slots=True)
class ClassSettings:
    """What a class gives to every app that names it."""

    settings: Mapping[str, Setting]
    facts: ClassFacts
    globs: tuple[Glob, ...]
    ignore: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """What an environment gives to all of its apps. `own`: some of the tags are its own, not the project's."""

    tags: Mapping[str, str] = field(default_factory=dict)
    protect: bool = False
    own: bool = False


@dataclass(slots=True)
class Apps:
    """Resolves the apps of one spec; equal classes, bundles and bodies are looked at once."""

    bundles: Bundles
    requirements: Requirements
    findings: Findings
    environments: Mapping[str, Given] = field(default_factory=dict)  #: what each gives to its apps
    lists: dict[int, tuple[Setting, Seq]] = field(default_factory=dict)
    """The list that each setting was written as, by the setting's identity."""
    _classes: dict[tuple[str, str], ClassSettings | None] = field(default_factory=dict)
    _shared: dict[tuple[str, int], tuple[Any, ...] | None] = field(default_factory=dict)

    def resolve(self, instance: Instance) -> ResolvedApp | None:
        """The app, or None after noting what is wrong with it."""
        key = (instance.name, id(instance.body))
        if instance.shared and key in self._shared:
            parts = self._shared[key]
        else:
            parts = self._parts(instance)
            if instance.shared:
                self._shared[key] = parts
        if parts is None:
            return None
        kind, entry, command, settings, bundle, depends, places, protect, image, port = parts
        given = self.environments.get(instance.environment, Given())
        return ResolvedApp(
            instance.name,
            instance.environment,
            kind,
            entry,
            command,
            _tagged(settings, given, at(instance.key.start)),
            bundle,
            at(instance.key.start),
            depends,
            places,
            given.protect if protect is None else protect,
            frozenset(instance.overlaid),
            image,
            port,
        )

    @property
    def entries(self) -> set[str]:
        """Source files that classes were looked for in."""
        return {path for path, _ in self._classes}

    def item_position(self, setting: Setting, number: int) -> Position | None:
        """Where an item of a setting stands, or the setting itself if it was not written as a list."""
        written = self.lists.get(id(setting))
        return position(written[1][number]) if written else setting.position

    def _parts(self, instance: Instance) -> tuple[Any, ...] | None:
        body = instance.body
        model = validate(AppModel, body, self.findings, section="apps", owner=instance.key)
        if model is None or not self._one_kind(model, instance):
            return None
        depends = tuple(model.depends_on)
        places = _places(body.get("depends_on"), len(depends))
        if model.app is not None:
            return self._of_class(model, instance, depends, places)
        settings = self._settings(model, instance, DEFAULTS)
        if model.image is not None:
            files = Bundle(str(self.bundles.folder.root), ())
            named = tuple(model.command or ())
            more = (depends, places, model.protect, model.image, model.port or 0)
            return (AppKind.IMAGE, "", named, settings, files, *more)
        place = position(body["command"])
        self._warn_of_shell(model.command or (), place)
        bundle = self.bundles.of_command(self._globs(model.files, body.get("files")), place)
        if bundle is None:
            return None
        return AppKind.COMMAND, "", tuple(model.command or ()), settings, bundle, depends, places, model.protect, "", 0

    def _warn_of_shell(self, argv: Sequence[str], place: Position) -> None:
        """Nothing replaces `$PORT` in a command: no shell runs it."""
        syntax = shell_syntax(argv)
        if syntax:
            message = f"{quoted(syntax)} means nothing here: no shell runs the command"
            self.findings.warn(Code.SHELL_SYNTAX, message, place, hint="if a shell is to read it: sh -c 'exec …'")

    def _one_kind(self, model: AppModel, instance: Instance) -> bool:
        body, key = instance.body, instance.key
        if model.app is None and model.command is None and model.image is None:
            message = "the app says neither `app` nor `command` nor `image`"
            hint = "add `app: file.py::Class`, `command:`, or `image: NAME@sha256:…`"
            self.findings.add(Code.MISSING, message, key, hint=hint)
            return False
        if model.port is not None and model.image is None:
            message = "this version of falplan does not support a fixed port of what is no container"
            self.findings.add(Code.UNSUPPORTED, message, body.keys_at["port"], hint="listen on $PORT")
            return False
        wrong = [("app", "command")] if model.app is not None and model.command is not None else []
        wrong += [("command", "app_files")] if model.app is None and model.app_files is not None else []
        wrong += [("app", "files")] if model.command is None and model.image is None and model.files is not None else []
        if model.image is not None:
            wrong = [("image", name) for name in WITHOUT_IMAGE if name in body]
        for first, second in wrong:
            hint = {"app_files": "write `files`", "files": "write `app_files`"}.get(second, "keep one of them")
            if first == "image":
                hint = "the image has all that it needs" if second != "app" else "keep one of them"
            self.findings.add(
                Code.CONFLICT, f"`{first}` and `{second}` can't stand together", body.keys_at[second], hint=hint
            )
        return not wrong

    def _of_class(
        self, model: AppModel, instance: Instance, depends: tuple[str, ...], places: tuple[Position, ...]
    ) -> tuple[Any, ...] | None:
        node = instance.body["app"]
        path, separator, name = (model.app or "").partition("::")
        if not separator or not name.isidentifier() or not path.endswith(".py"):
            self.findings.add(
                Code.TYPE, f"not an app: {quoted(model.app or '')}", node, hint="write it as file.py::Class"
            )
            return None
        why = path_fault(path)
        if why:
            self.findings.add(Code.PATH, f"{quoted(path)} {why}", node)
            return None
        path = path.removeprefix("./")
        found = self._class(path, name, node, instance)
        if found is None:
            return None
        self._refuse_unread(found.facts, instance)
        settings = self._settings(model, instance, found.settings)
        globs = self._globs(model.app_files, instance.body.get("app_files"))
        bundle = self.bundles.of_class(path, found.globs if globs is None else globs, found.ignore, position(node))
        if bundle is None:
            return None
        return AppKind.FAL, f"{path}::{name}", (), settings, bundle, depends, places, model.protect, "", 0

    def _class(self, path: str, name: str, node: Node, instance: Instance) -> ClassSettings | None:
        key = (path, name)
        if key not in self._classes:
            self._classes[key] = self._read_class(path, name, node)
        found = self._classes[key]
        if found is None:
            self._no_class(path, name, node)
            return None
        named = found.facts.values.get("app_name") or found.facts.values.get("name")
        if named is not None and named.value != instance.name and "{{" not in instance.key:
            message = (
                f"the class names itself {quoted(str(named.value))}; the spec's name {quoted(instance.name)} is used"
            )
            self.findings.warn(Code.CLASS_ATTRIBUTE, message, named.position)
        return found

    def _no_class(self, path: str, name: str, node: Node) -> None:
        """Say at this app what is wrong with its class; what is wrong inside the file was noted there."""
        if not is_file(self.bundles.folder.root / path):
            self.findings.add(
                Code.REFERENCE, f"no such file: {quoted(path)}", node, hint="the path starts at the spec's folder"
            )
            return
        module = self.bundles.imports.module(path)
        if module is not None and name not in module.classes:
            hint = did_you_mean(name, module.classes)
            self.findings.add(Code.REFERENCE, f"{path} has no class {quoted(name)}", node, hint=hint)

    def _read_class(self, path: str, name: str, node: Node) -> ClassSettings | None:
        if not is_file(self.bundles.folder.root / path):
            return None
        try:
            self.bundles.folder.inside(path)
        except FileFault as exc:
            self.findings.add(Code.FILE, str(exc), node)
            return None
        module = self.bundles.imports.module(path)
        if module is None or name not in module.classes:
            return None
        facts = read_class(module, name, self.findings)
        settings = {**DEFAULTS, **{k: Setting(v, Origin.CLASS, facts.position) for k, v in CLASS_DEFAULTS.items()}}
        settings.update(self._class_settings(facts))
        return ClassSettings(settings, facts, self._class_globs(path, facts), _texts(facts, "app_files_ignore"))

    def _class_settings(self, facts: ClassFacts) -> dict[str, Setting]:
        """The class's settings, held against the same rules as the spec's."""
        from pydantic import ValidationError

        given = {name: found for name, found in facts.values.items() if name in APP_FIELDS}
        try:
            model = Settings.model_validate({name: found.value for name, found in given.items()})
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_input=False):
                place = given[str(error["loc"][0])].position
                context = error.get("ctx", {})
                code = next((c for c in Code if c.value == error["type"]), Code.TYPE)
                message = f"`{error['loc'][0]}`: {context.get('text', 'a value of the wrong type')}"
                self.findings.add(code, message, place, hint=str(context.get("hint", "")))
            return {}
        settings = {}
        for name, found in given.items():
            value = _value(getattr(model, name))
            if name == "requirements":
                value = self._lines(
                    value, [found.position] * len(value) if isinstance(value, list) else [found.position]
                )
            settings[name] = Setting(value, Origin.CLASS, found.position)
        return settings

    def _class_globs(self, path: str, facts: ClassFacts) -> tuple[Glob, ...]:
        folder = path.rpartition("/")[0]
        context = facts.values.get("app_files_context_dir")
        if context is not None and isinstance(context.value, str) and context.value not in (".", "./"):
            why = path_fault(context.value)
            if why:
                self.findings.add(Code.PATH, f"app_files_context_dir {quoted(context.value)} {why}", context.position)
                return ()
            folder = f"{folder}/{context.value}".strip("/")
        place = facts.values["app_files"].position if "app_files" in facts.values else facts.position
        return tuple(Glob(pattern, place, folder) for pattern in _texts(facts, "app_files"))

    def _refuse_unread(self, facts: ClassFacts, instance: Instance) -> None:
        for name, place in facts.unread.items():
            if name in instance.body or name in ("app_name", "name"):
                continue
            settable = name in APP_FIELDS or name == "app_files"
            hint = f"set `{name}` in the spec, or write a literal" if settable else "write a literal"
            self.findings.add(Code.CLASS_VALUE, f"value of `{name}` can't be read without running it", place, hint=hint)

    def _settings(self, model: AppModel, instance: Instance, below: Mapping[str, Setting]) -> dict[str, Setting]:
        settings = dict(below)
        overlaid = instance.overlaid
        for name, node in instance.body.items():
            if name not in APP_FIELDS:
                continue
            value = _value(getattr(model, name))
            place = position(node)
            if name == "requirements":
                places = [position(item) for item in node] if isinstance(node, Seq) else [place]
                value = self._lines(value, places)
            elif name == "environment_variables" and isinstance(node, Map):
                self._refuse_secrets(node)
            settings[name] = made = Setting(value, Origin.OVERLAY if name in overlaid else Origin.SPEC, place)
            if isinstance(node, Seq):
                self.lists[id(made)] = (made, node)
        return settings

    def _refuse_secrets(self, node: Map) -> None:
        for name, value in node.items():
            if isinstance(value, Scalar) and looks_secret(name, value):
                hint = (
                    "environment_variables stand in spec, plan and state for everybody to read: name it under "
                    f"environments.<name>.secrets, as {name[:60]}: {{env: {name[:60]}}}"
                )
                self.findings.add(
                    Code.LITERAL_SECRET,
                    f"the value of {quoted(name)} looks like a secret",
                    node.keys_at[name],
                    hint=hint,
                )

    def _lines(self, value: Json, places: Sequence[Position]) -> list[Json]:
        if isinstance(value, str):
            return list(self.requirements.file(value, places[0]))
        lines = [str(line) for line in value] if isinstance(value, list) else []
        for number, line in enumerate(lines):
            self.requirements.check(line, places[min(number, len(places) - 1)])
        return list(lines)

    def _globs(self, patterns: Sequence[str] | None, node: Node | None) -> tuple[Glob, ...] | None:
        if patterns is None or node is None:
            return None
        places = _places(node, len(patterns))
        return tuple(Glob(pattern, place) for pattern, place in zip(patterns, places, strict=True))


def _tagged(settings: dict[str, Setting], given: Given, place: Position) -> dict[str, Setting]:
    """The settings with the tags that all apps get; an app's own win."""
    if not given.tags:
        return settings
    own = settings["tags"]
    tags: dict[str, Json] = {**given.tags, **(own.value if isinstance(own.value, dict) else {})}
    origin, where = (Origin.SPEC, place) if own.origin is Origin.DEFAULT else (own.origin, own.position)
    if given.own:
        origin = Origin.OVERLAY
    return {**settings, "tags": Setting(tags, origin, where)}


def _places(node: Node | None, count: int) -> tuple[Position, ...]:
    if isinstance(node, Seq):
        return tuple(position(item) for item in node)
    return (position(node),) * count if isinstance(node, Scalar | Map) else ()


def _texts(facts: ClassFacts, name: str) -> tuple[str, ...]:
    found = facts.values.get(name)
    if found is None:
        return ()
    values = found.value if isinstance(found.value, list) else [found.value]
    return tuple(str(value) for value in values)


def _value(value: Any) -> Json:
    """A model's value as JSON: nested models become mappings."""
    if hasattr(value, "model_dump"):
        dumped: Json = value.model_dump(mode="python")
        return dumped
    result: Json = value
    return result
