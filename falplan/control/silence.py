"""What hosts that do not answer hold up, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from falplan.core.errors import FalplanError
from falplan.core.resources import host_address
from falplan.stores.runtime.control import RunnerRow


def held_up(summary: str, rows: Iterable[RunnerRow], away: Mapping[str, str]) -> FalplanError:
    """What can't end because of runners that may live on. `away` is why each host does not answer, by machine id."""
    left = sorted(rows, key=lambda row: (row.machine_id, row.runner_id))
    lines = [
        f"{row.runner_id} may still run on {row.machine_id}: {away.get(row.machine_id, 'it did not answer just now')}."
        for row in left
    ]
    hosts = sorted({host_address(row.machine_id) for row in left})
    return FalplanError(summary, "\n".join([*lines, ways_out(hosts)]))


def ways_out(hosts: list[str]) -> str:
    """What to do about hosts, by address, that do not answer."""
    again = "it answers" if len(hosts) == 1 else "they answer"
    return (
        f"Apply again once {again}. `falplan state rm {' '.join(hosts)}` forgets what will never answer again, "
        "and the next apply has the control plane forget it, too."
    )
