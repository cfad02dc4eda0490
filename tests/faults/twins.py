"""A provider that does what a naive one would, to see that the checks find it out. Made by the command line, by its entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from falplan.core.values import Json
from falplan.sdk.resources import Declared, Mark
from falplan.sdk.testing.disk import DiskWorld
from falplan.sdk.testing.things import Thing
from falplan.sdk.testing.verbs import Verb
from falplan.sdk.testing.world import WorldProvider


class Forgetful(WorldProvider):
    """Its `create` ignores marks: it makes one, whatever is there."""

    def _taken(self, verb: Verb, wanted: Declared, mark: Mark, besides: str) -> Thing | None:
        return None


def forgetful(region_name: str, options: Mapping[str, Json]) -> Forgetful:
    """For an entry point."""
    return Forgetful(region_name, DiskWorld(Path(str(options["world"]))), options)
