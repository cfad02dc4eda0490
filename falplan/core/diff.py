"""Differences between two JSON values, leaf by leaf. Knows nothing of what the values mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from falplan.core.values import Json


class Absent(Enum):
    """The value of something that isn't there; distinct from null."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One leaf, or one whole subtree, that differs. ABSENT on one side means added or removed."""

    path: Path
    before: Json | Absent
    after: Json | Absent


def differences(before: Json | Absent, after: Json | Absent, path: Path = ()) -> Iterator[Difference]:
    """Every difference, sorted by path. Objects are compared key by key; lists and scalars as wholes."""
    if isinstance(before, dict) and isinstance(after, dict):
        if same(before, after):
            return  # as nearly all are
        for key in sorted(before.keys() | after.keys()):
            yield from differences(before.get(key, ABSENT), after.get(key, ABSENT), (*path, key))
    elif not same(before, after):
        yield Difference(path, before, after)


def with_value(value: Json, path: Path, new: Json | Absent) -> Json:
    """The value with another one at this path, or without what stands there."""
    if not path:
        if new is ABSENT:
            raise ValueError("nothing is left")
        return new
    inside = dict(value) if isinstance(value, dict) else {}
    if len(path) == 1 and new is ABSENT:
        inside.pop(path[0], None)
    else:
        inside[path[0]] = with_value(inside.get(path[0]), path[1:], new)
    return inside


def same(before: Json | Absent, after: Json | Absent) -> bool:
    """Whether there is no difference."""
    # Python holds True == 1 and 1 == 1.0; in a spec, the first two differ and the last two don't.
    return before is after or (before == after and _same_kinds(before, after))


def _same_kinds(before: object, after: object) -> bool:
    """Whether booleans stand in the same places of two values that Python holds for equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            other = after[key]
            if value is not other and type(value) is not str and not _same_kinds(value, other):
                return False
        return True
    if isinstance(before, list) and isinstance(after, list):
        return all(map(_same_kinds, before, after))
    return isinstance(before, bool) == isinstance(after, bool)


def count_leaves(value: Json | Absent) -> int:
    """Leaves of a value: scalars, lists and empty objects count one each."""
    if isinstance(value, dict) and value:
        return sum([count_leaves(v) if isinstance(v, dict) else 1 for v in value.values()])
    return 0 if value is ABSENT else 1
