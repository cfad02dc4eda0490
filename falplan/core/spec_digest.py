"""What a resolved spec says, as digests: of the whole, and of each part, to tell which one differs. Reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from typing import Any

from falplan.core.spec.resolved import Bundle, ResolvedApp, ResolvedSpec
from falplan.core.values import Json, digest

SAYS_NOTHING = frozenset({"folder", "root", "sources", "warnings", "position", "positions", "depends_on_positions"})
"""Fields of the resolved spec that tell where it was read, not what it says: another checkout, or another line, is the same spec."""


def spec_digest(spec: ResolvedSpec) -> str:
    """A digest over everything that the spec says, files of bundles included: 64 hex digits."""
    return digest(dict[str, Json](spec_parts(spec)))


def spec_parts(spec: ResolvedSpec) -> dict[str, str]:
    """Each part of the spec, as people call it, with a digest of what it says. A field that comes later counts by itself."""
    parts: dict[str, str] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name in SAYS_NOTHING:
            continue
        if field.name == "apps":
            for app in spec.apps:
                parts |= _app(app)
        elif field.name == "secrets":
            parts |= {s.address: _digest(s) for s in spec.secrets}
        elif isinstance(value, Mapping):
            parts[field.name] = digest(sorted(value))
            parts |= {f"{field.name}.{name}": _digest(value[name]) for name in value}
        else:
            parts[field.name] = _digest(value)
    return dict(sorted(parts.items()))


def spec_differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The parts that differ, sorted, each with how."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            how = "is new" if name not in then else "is gone" if name not in now else "differs"
            found.append(f"{name} {how}")
    return found


def _app(app: ResolvedApp) -> dict[str, str]:
    files = {f"file {path} of {app.address}": hashed for path, hashed in app.bundle.hashes().items()}
    return {app.address: _digest(replace(app, bundle=Bundle("", ()))), **files}


def _digest(value: Any) -> str:
    return digest(_plain(value))


def _plain(value: Any) -> Json:
    """As JSON: dataclasses by their fields, in any order of keys.

    Raises:
        TypeError: a value whose text would not be the same everywhere.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"  # 0.5 and 0.50 say the same
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name not in SAYS_NOTHING}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(v) for v in value), key=repr)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    raise TypeError(f"{type(value).__name__} is no value of a spec")
