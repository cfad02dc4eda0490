"""A project at work: its spec, state, control plane. What commands hold while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from falplan import clock
from falplan.core.errors import FalplanError, Refused
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import State
from falplan.engine import local_gateway
from falplan.engine.client import AdminClient
from falplan.stores.home import ControlHome, home_of
from falplan.stores.state.local import LocalState


@dataclass(frozen=True, slots=True)
class Project:
    """Where a project's state and control plane are. `environ` is the command line's environment."""

    spec: ResolvedSpec
    store: LocalState
    environ: Mapping[str, str] = field(repr=False)

    def read_state(self) -> State:
        """Saved state; a fresh one, not yet saved, if nothing was ever applied."""
        return self.store.read(self.spec.project) or State(self.spec.project, clock.new_uuid(), 0)

    def home(self, lineage: str) -> ControlHome:
        return home_of(lineage, self.environ)

    def client(self, lineage: str) -> AdminClient | None:
        """The project's running control plane on this machine; None if none runs."""
        return local_gateway.reach(self.home(lineage))

    def running_client(self) -> AdminClient:
        """The same for commands that need one.

        Raises:
            FalplanError: nothing was applied, or the control plane is stopped.
        """
        client = self.client(self._applied().lineage)
        if client is None:
            raise FalplanError(
                "The control plane is not running",
                "It was applied before and is stopped: `falplan apply` starts it again, with its queue and keys.",
            )
        return client

    def home_here(self) -> ControlHome:
        """The control plane's folder, for its keys and certificates.

        Raises:
            FalplanError: nothing was applied.
        """
        return self.home(self._applied().lineage)

    def _applied(self) -> State:
        state = self.store.read(self.spec.project)
        if state is None or not state.resources:
            raise FalplanError("Nothing was applied yet", "`falplan apply` deploys what the spec says.")
        return state


def open_project(spec: ResolvedSpec, environ: Mapping[str, str]) -> Project:
    """The project of a spec."""
    path = cast("str | None", spec.state.get("path"))
    folder = Path(spec.folder) / (path or ".falplan")
    if folder.exists() and not folder.is_dir():
        raise Refused(
            "The state's folder is a file", f"{folder} must be a folder: it holds state, journal, lock and backups."
        )
    return Project(spec, LocalState(folder), environ)


Progress = Callable[[str, str], None]
"""(address, line): something that a person may want to see while waiting."""
