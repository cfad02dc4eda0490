"""What a changed value leads to, in words: one table per resource type."""

from __future__ import annotations

from falplan.core.diff import ABSENT, Difference, Path
from falplan.core.resources import PROVIDED, ResourceType
from falplan.core.spec.fields import APP_FIELDS, Binding

NEW_REVISION = "makes a new revision"
IN_PLACE = "updated in place"

GATEWAY_CHANGES = {
    "falplan": "upgraded side by side; runners and requests go on",
    "port": "every URL changes: callers of the old ones find nobody",
    "listen": "restarted; runners go on",
    "hostname": "every URL changes; the old ones work as long as their name leads here",
    "tls": "from the next connection on",
    "prices": "counted from the next launch on",
    "warm": "kept free from now on",
    "budgets": "held from the next launch on; what runs goes on",
}
"""First path element -> what its change leads to."""

SECRET_CHANGES = {
    "fingerprint": "the value differs",
    "version": "set with `falplan secrets set`",
    "source": "read from another place",
}
"""The same for secrets."""

REPLACING: frozenset[tuple[ResourceType, Path]] = frozenset({(ResourceType.APP, ("endpoint",))})
"""Paths whose change cannot be made in place: callers know the app by its endpoint."""


def forces_replacement(kind: ResourceType, path: Path) -> bool:
    """Whether a change there means destroying the resource and making another."""
    return (kind, path[:1]) in REPLACING


def makes_revision(path: Path) -> bool:
    """Whether a change of an app's input there makes a new revision."""
    if path[:1] == ("settings",) and len(path) > 1:
        return APP_FIELDS[path[1]].binding is Binding.REVISION
    return path[:1] in (
        ("files",),
        ("entry",),
        ("command",),
        ("image",),
        ("port",),
        ("kind",),
        ("machine_types",),
        ("secrets",),
    )


def because_of(kind: ResourceType, difference: Difference) -> str:
    """The consequence that a plan prints beside a changed value; empty where there is none to tell."""
    if difference.path == ("protect",):
        return "nothing may destroy or replace it" if difference.before is ABSENT else "it may be destroyed again"
    if difference.before is ABSENT and len(difference.path) < 2:
        return ""
    if kind in PROVIDED:
        return IN_PLACE
    if forces_replacement(kind, difference.path):
        return "the endpoint's name: callers of the old one will get 404"
    if kind is ResourceType.BUILD:
        fetched = difference.path[:1] == ("image",)
        return "fetched where it may run" if fetched else "environment is locked and built again"
    if kind is ResourceType.GATEWAY:
        return GATEWAY_CHANGES.get(difference.path[0], "")
    if kind is ResourceType.SECRET:
        return SECRET_CHANGES.get(difference.path[0], "")
    return NEW_REVISION if makes_revision(difference.path) else IN_PLACE
