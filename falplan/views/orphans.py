"""Runners that nobody knows, as text: whose they were, since when, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from falplan.core.ages import in_words


def render_orphans(orphans: Iterable[Any], *, now: float) -> str:
    """A line each, in the form of GET /world; empty if there are none. `now` in seconds since the epoch."""
    lines = [
        f"  {o['runner_id']} of {o['endpoint']} ({o['revision']}), started {in_words(now - o['created_at'])} ago by control plane "
        f"{o['control_plane']}: taken over if its revision is applied again, else stopped"
        for o in orphans
    ]
    return "\n".join(["Runners that nobody knows:", *lines]) + "\n" if lines else ""
