"""What is overridden of an app on the control plane: values that are live and were not applied. Knows nothing of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import ValidationError

from falplan.core.errors import Refused
from falplan.core.spec.fields import APP_FIELDS, NOT_ABOVE, Binding
from falplan.core.spec.models import Settings
from falplan.core.spec.words import did_you_mean, quoted
from falplan.core.values import Json, JsonObject

REVISION = "revision"
"""The path of an override of the revision that serves; its values are revision ids."""

RUNTIME = tuple(name for name, known in APP_FIELDS.items() if known.binding is Binding.RUNTIME and name != "tags")
"""Settings that can be overridden."""


class NotOverridable(Refused):
    """A value, or a combination of values, that the spec would not take either. Nothing was changed."""

    def __init__(self, address: str, because: str, hint: str = "") -> None:
        told = f"{because}; {hint}" if hint else because
        stop = "" if told.endswith("?") else "."
        super().__init__("The settings can't be overridden", f"{address}: {told}{stop} Nothing was changed.")


@dataclass(frozen=True, slots=True)
class Live:
    """An app as it is live.

    `inputs` has the form of the spec's resource. `overrides` maps dotted paths of them, or `revision`, to
    `{"value", "applied", "since", "by"}`; `since` is RFC 3339.
    """

    inputs: JsonObject
    overrides: JsonObject = field(default_factory=dict)

    @property
    def settings(self) -> JsonObject:
        """All settings, code-bound ones too."""
        return cast("JsonObject", self.inputs["settings"])


@dataclass(frozen=True, slots=True)
class Mark:
    """When an override was asked for (RFC 3339), and by whom."""

    since: str
    by: str


def read_settings(address: str, wanted: Mapping[str, Json]) -> JsonObject:
    """The settings as the spec would read them: `5m` is 300.

    Raises:
        NotOverridable: one of them is no runtime setting, or has a value that the spec would refuse.
    """
    for name in wanted:
        if name not in APP_FIELDS:
            raise NotOverridable(address, f"there is no setting {quoted(name)}", did_you_mean(name, RUNTIME))
        if name not in RUNTIME:
            raise NotOverridable(address, f"{name} belongs to the revision: change it in the spec, and apply")
    try:
        read = Settings.model_validate(dict(wanted))
    except ValidationError as exc:
        raise NotOverridable(address, "; ".join(map(_fault, exc.errors()))) from None
    return {name: cast("Json", getattr(read, name)) for name in wanted}


def _fault(error: object) -> str:
    found = cast("dict[str, object]", error)
    name = ".".join(map(str, cast("tuple[object, ...]", found["loc"])))
    hint = cast("dict[str, object]", found.get("ctx") or {}).get("hint")
    return f"{name}: {found['msg']}" + (f" ({hint})" if hint else "")


def check_together(address: str, settings: Mapping[str, Json]) -> None:
    """Whether all of an app's settings can hold at once.

    Raises:
        NotOverridable
    """
    for low, high in NOT_ABOVE:
        below, above = (cast("int", settings.get(name, APP_FIELDS[name].default)) for name in (low, high))
        if below > above:
            raise NotOverridable(address, f"{low} {below} is above {high} {above}: change both")


def with_settings(live: Live, settings: Mapping[str, Json], mark: Mark) -> Live:
    """The app with these settings. One that is set back to what was applied is overridden no longer."""
    overrides = dict(live.overrides)
    for name, value in settings.items():
        path = f"settings.{name}"
        _override(overrides, path, value, _applied(overrides, path, live.settings.get(name)), mark)
    inputs: JsonObject = {**live.inputs, "settings": {**live.settings, **settings}}
    return Live(inputs, overrides)


def with_revision(live: Live, revision: str, inputs: JsonObject, *, serves: str, mark: Mark) -> Live:
    """The app with another revision, whose own inputs these are. Runtime settings stay as they are live.

    `serves` is the one that serves until then.
    """
    overrides = dict(live.overrides)
    _override(overrides, REVISION, revision, _applied(overrides, REVISION, serves), mark)
    runtime = {name: live.settings[name] for name in RUNTIME if name in live.settings}
    return Live({**inputs, "settings": {**cast("JsonObject", inputs["settings"]), **runtime}}, overrides)


def with_applied_settings(live: Live) -> Live:
    """The app with the settings that were applied. Its revision stays."""
    settings, overrides = dict(live.settings), dict(live.overrides)
    for path in live.overrides:
        if path != REVISION:
            settings[path.removeprefix("settings.")] = _applied(overrides, path, None)
            del overrides[path]
    return Live({**live.inputs, "settings": settings}, overrides)


def applied_revision(overrides: Mapping[str, Json], serves: str | None) -> str | None:
    """The revision that was applied last, of an app in which `serves` serves now."""
    return cast("str | None", _applied(overrides, REVISION, serves))


def _applied(overrides: Mapping[str, Json], path: str, live: Json) -> Json:
    known = overrides.get(path)
    return cast("JsonObject", known)["applied"] if known is not None else live


def _override(overrides: JsonObject, path: str, value: Json, applied: Json, mark: Mark) -> None:
    known = cast("JsonObject | None", overrides.get(path))
    if value == applied:
        overrides.pop(path, None)
    elif known is None or known["value"] != value:  # asked for again, it is as old as it was
        overrides[path] = {"value": value, "applied": applied, "since": mark.since, "by": mark.by}
