"""A control plane takes its machine before it acts there, with an epoch that is durable before it is used."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from falplan.control.adoption import ROLLED_BACK
from falplan.control.ledger import Claim, Fence, Process, confirm_claim, take_claim
from falplan.control.machine_acts import RETIRED, retire
from falplan.control.machines import Machines
from falplan.stores.machine import host_name
from falplan.stores.runtime.control import ControlStore

log = logging.getLogger("falplan.serve")

TELLING = (
    1.0  # seconds for which a control plane that lost its machine still answers, so that who asks hears whose it is
)


@dataclass(frozen=True, slots=True)
class Claiming:
    """What a claim says beside who the control plane is.

    `replaces` is the id of the one whose place it takes, `succeeds` the living process that has given way to this one.
    """

    project: str = ""
    replaces: str = ""
    succeeds: Process | None = None


async def claim_machine(
    host: Machines, store: ControlStore, identity: Mapping[str, str], claiming: Claiming
) -> dict[str, str]:
    """Take this machine; from now on the host acts with the fence. Returns the identity with the epoch of this start.

    Raises:
        ClaimRefused: another control plane has it.
    """
    lineage, own = identity["lineage"], identity["control_plane_id"]
    home, process = str(host.home.folder.resolve()), Process.of(os.getpid())
    claim = Claim(lineage, own, int(identity["epoch"]), home, claiming.project, host_name(), process)
    taken = await asyncio.to_thread(
        take_claim, host.here.shell, host.here.root, claim, replaces=claiming.replaces, succeeds=claiming.succeeds
    )
    if taken.rolled_back:
        # Before the epoch is: once that is kept and confirmed, nothing else tells that the database is an older one.
        log.warning("the database is older than what acted on this machine: it was rolled back")
        await store.mark(ROLLED_BACK, str(taken.epoch))
        identity = {**identity, ROLLED_BACK: str(taken.epoch)}
    if claiming.replaces and claiming.replaces != own:
        identity = {**identity, RETIRED: await retire(store, claiming.replaces)}
    await store.keep_epoch(taken.epoch)
    here = host.here
    here.fence, here.project = Fence(lineage, own, taken.epoch), claiming.project
    await asyncio.to_thread(confirm_claim, here.shell, here.root, here.fence)
    host.claim, host.replaces, host.succeeds = replace(claim, epoch=taken.epoch), claiming.replaces, claiming.succeeds
    return {**identity, "epoch": str(taken.epoch)}
