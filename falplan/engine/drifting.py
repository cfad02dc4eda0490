"""Looks for drift. Can't change anything: nothing that applies is within its reach, which import-linter holds it to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from falplan.core.drift import Findings, find_drift
from falplan.core.findings import Finding
from falplan.core.loss import vanished
from falplan.core.resources import environment_of
from falplan.core.state import State
from falplan.engine.observe import observe
from falplan.engine.project import Project


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at the world brought. `orphans` are runners that nobody knows, as in GET /world; `checked` counts resources.

    `lost`: so much seems to be gone that the look itself is in doubt.
    """

    state: State
    findings: Findings
    orphans: tuple[Any, ...]
    checked: int
    lost: Finding | None = None


def look(project: Project, *, environment: str, today: str) -> Looked:
    """Compare what was applied with what is there; with an environment, only what belongs to it. `today` as 2026-11-21.

    Raises:
        FalplanError: nothing was applied.
    """
    state = project.applied()
    observed = observe(project, state)
    lost = vanished(state, observed.seen, accepted=True)
    seen = {a: s for a, s in observed.seen.items() if not environment or environment_of(a) == environment}
    findings = find_drift(state, seen, rules=project.spec.ignored_drift, today=today)
    checked = sum(not environment or environment_of(a) == environment for a in state.resources)
    # A control plane that is stopped says nothing of what it has; that it is stopped is drift itself.
    silent = {
        a for a in state.resources if a not in observed.seen and (not environment or environment_of(a) == environment)
    }
    unknown = {**findings.unknown, **{a: observed.unreachable for a in sorted(silent) if observed.unreachable}}
    return Looked(state, Findings(findings.drift, unknown), () if environment else observed.orphans, checked, lost)
