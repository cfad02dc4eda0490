"""A project at work: its spec, state, control plane. What commands hold while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.plan import Presence
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import State
from falplan.engine import reaching
from falplan.engine.client import AdminClient
from falplan.engine.host_gateway import Install
from falplan.engine.reaching import Reached, Where
from falplan.engine.ways import Ways
from falplan.stores.encryption import seal_for
from falplan.stores.home import ControlHome, home_of
from falplan.stores.state.interface import StateStore
from falplan.stores.state.marker import Marker, refuse_moved, write_marker
from falplan.stores.state.places import folder_of, open_store
from falplan.stores.state.seal import NoSeal, Seal

UNTRUSTED = "untrusted"
"""The lineage of a plan that nobody applies."""


@dataclass(frozen=True, slots=True)
class Project:
    """Where a project's state and control plane are. `environ` is the command line's environment.

    `folder` is on this machine whatever backend keeps the state: the project's key is there, and secrets that wait to be delivered.
    `parallelism`: regions that are looked at, and operations that are carried out, at a time. `install` puts falplan on another machine;
    without it no control plane is made there.
    """

    spec: ResolvedSpec
    store: StateStore
    environ: Mapping[str, str] = field(repr=False)
    folder: Path
    seal: Seal = field(default_factory=NoSeal, repr=False)
    parallelism: int = 1
    ways: Ways = field(default_factory=Ways, repr=False)
    install: Install | None = field(default=None, repr=False)

    def read_state(self) -> State:
        """Saved state; a fresh one, not yet saved, if nothing was ever applied."""
        return self.store.read(self.spec.project) or State(self.spec.project, self._lineage(), 0)

    def read_untrusted(self) -> State:
        """Saved state if it lies in the spec's folder, in clear; else a fresh one.

        A spec of strangers does not say where to connect, nor which key to fetch.
        """
        fresh = State(self.spec.project, UNTRUSTED, 0)
        section = self.spec.state
        if section.get("backend") != "local" or section.get("encryption"):
            return fresh
        return self.store.read(self.spec.project) or fresh

    def _lineage(self) -> str:
        """A new lineage, or that of the control plane which the spec names: it serves one lineage alone."""
        url = self.spec.gateway.get("url")
        if not url:
            return clock.new_uuid()
        reached = reaching.reach(self.spec, State(self.spec.project, str(url), 0), self.environ, self.ways)
        if reached.status is None:
            raise FalplanError("The gateway can't be reached", reached.because)
        return str(reached.status["lineage"])

    def home(self, lineage: str) -> ControlHome:
        return home_of(lineage, self.environ)

    def where(self, state: State) -> Where:
        """Whose the control plane is. Asks nobody."""
        return reaching.where_is(self.spec, state, self.environ)

    def reach(self, state: State) -> Reached:
        """The project's control plane, wherever it is."""
        return reaching.reach(self.spec, state, self.environ, self.ways)

    def running_client(self) -> AdminClient:
        """A client for commands that need a control plane.

        Raises:
            FalplanError: nothing was applied, or the control plane is stopped or can't be reached.
        """
        reached = self.reach(self.applied())
        if reached.client is not None:
            return reached.client
        if reached.presence in (Presence.STOPPED, Presence.ABSENT):
            raise FalplanError(
                "The control plane is not running",
                "It was applied before and is stopped: `falplan apply` starts it again, with its queue and keys.",
            )
        raise FalplanError("The control plane can't be reached", reached.because)

    def applied(self) -> State:
        """Saved state.

        Raises:
            FalplanError: nothing was applied.
        """
        state = self.store.read(self.spec.project)
        if state is None or not state.resources:
            raise FalplanError("Nothing was applied yet", "`falplan apply` deploys what the spec says.")
        return state


def open_project(
    spec: ResolvedSpec, environ: Mapping[str, str], *, parallelism: int = 1, install: Install | None = None
) -> Project:
    """The project of a spec.

    Raises:
        Refused: `state:` names another place than the one that the state was last written to.
    """
    root = Path(spec.folder)

    def saved(state: State) -> None:
        write_marker(root, Marker(store.where, spec.state, state.lineage))

    seal = seal_for(spec, environ)
    store = open_store(spec.state, spec.project, root, environ, seal=seal, saved=saved)
    store.remembered = refuse_moved(root, store.where, spec.state)
    return Project(spec, store, environ, folder_of(spec.state, root), seal, parallelism, install=install)


Progress = Callable[[str, str], None]
"""(address, line): something that a person may want to see while waiting."""
