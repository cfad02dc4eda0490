"""Hosts that apply told the control plane of: a durable list, and one machine each that is connected to, claimed and looked at."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from falplan import clock, registry
from falplan.control.host import Observation, Told
from falplan.control.ledger import Claim, Fence, Fenced, Process, confirm_claim, read_ledger, take_claim
from falplan.control.station import Forwarding, Station
from falplan.core.errors import FalplanError
from falplan.core.notices import Notice, notice_of
from falplan.core.offers import as_sold
from falplan.core.placement import Reserved, Slots, slots_from_json
from falplan.core.values import Json, JsonObject
from falplan.sdk.launches import HEARD, NOTICE
from falplan.sdk.provider import Provider
from falplan.sdk.shell import Shell, Unreachable
from falplan.sdk.values import Machine
from falplan.stores.files import write_whole
from falplan.stores.home import read_json

log = logging.getLogger(__name__)

SLOW = 6.0  # seconds that a look may last before what runs there counts as unknown; a slow host answers within it
READ = 5.0
"""Seconds between questions whether a machine is taken back. EC2 gives two minutes."""
RENEW = 60.0  # seconds between signs of life to machines that are bought
SURVEY_AGAIN = 30.0  # seconds for which what a host has is taken as known


@dataclass(frozen=True, slots=True)
class Book:
    """The hosts that are known, in a file of the control plane's folder."""

    path: Path

    def read(self) -> dict[str, Told]:
        """By address."""
        body = cast("dict[str, JsonObject]", read_json(self.path) or {})
        return {
            a: Told(
                a,
                str(b["region"]),
                cast("JsonObject", b["options"]),
                b["leaving"] is True,
                str(b.get("by", "")),
                cast("JsonObject", b.get("sold", {})),
            )
            for a, b in body.items()
        }

    def write(self, hosts: Mapping[str, Told]) -> None:
        """Replace it, durably."""
        body = {a: _kept(h) for a, h in sorted(hosts.items())}
        write_whole(self.path, json.dumps(body).encode(), point="hosts")


def _kept(told: Told) -> JsonObject:
    kept: JsonObject = {"region": told.region, "options": told.options, "leaving": told.leaving}
    return {**kept, "by": told.by, "sold": told.sold} if told.by else kept


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a control plane gets onto hosts: its own key, what its claims say, and how it makes a machine workable.

    `replaces` and `succeeds` are as for `take_claim`.
    """

    key_file: str
    claim: Claim
    station: Callable[[Shell, Machine], Station]
    replaces: str = ""
    succeeds: Process | None = None


SILENT = "The host can't be reached"


@dataclass(slots=True)
class Post:
    """One host. What is remembered of it is of the last look that came to its end; `because` says why later ones did not."""

    told: Told
    machine_id: str
    seen: list[Observation] = field(default_factory=list)
    reserved: list[Reserved] = field(default_factory=list)
    slots: Slots | None = None
    looked_at: float | None = None  #: when the last look that came to its end began, monotonic seconds
    heard_at: float = field(default_factory=clock.monotonic)  #: when it last answered, or was told of
    because: str = "nobody has looked at it yet"
    error: Exception | None = None  #: what `because` tells of
    begun_at: float = 0.0  #: when the look that is under way began
    station: Station | None = None
    looking: asyncio.Task[None] | None = None
    _opening: threading.Lock = field(default_factory=threading.Lock)
    _provider: Provider | None = None
    _survey_at: float = 0.0
    notice: Notice | None = None  #: that it is taken back, if it is one that was bought
    _renew_at: float = 0.0  #: when a bought machine is told again that somebody looks after it
    _read_at: float = 0.0  #: when it is asked again whether it is taken back

    def open(self, regions: Mapping[str, Mapping[str, Json]], entrance: Entrance) -> Station:
        """Connect, see what it has, and take it. Blocks; may be called again.

        Raises:
            Unreachable: it does not answer.
            ClaimRefused: it is another control plane's.
            FalplanError: it can't be used, and why.
        """
        with self._opening:  # one connection, whoever is first to need it
            if self.station is not None:
                return self.station
            self._provider = provider = self._provided(regions, entrance.key_file)
            machine = self._machine(provider)
            station = entrance.station(provider.shell(machine), machine)
            try:
                _take(station, entrance)
            except BaseException:
                station.shell.close()
                raise
            self.station = station
            return station

    def _provided(self, regions: Mapping[str, Mapping[str, Json]], key_file: str) -> Provider:
        if self.told.by:
            return registry.provider_of(self.told.by, self.told.region, self.told.options | {"key_file": key_file})
        region = regions.get(self.told.region)
        if region is None:
            raise FalplanError(
                "Its region was removed", f"{self.told.address}: there is no region {self.told.region} now."
            )
        options = {k: v for k, v in region.items() if k != "provider"} | self.told.options | {"key_file": key_file}
        return registry.provider_of(str(region["provider"]), self.told.region, options)

    def _machine(self, provider: Provider) -> Machine:
        for machine in provider.machines():
            if machine.id == self.machine_id:
                if machine.unreachable:
                    raise Unreachable(SILENT, machine.unreachable.removeprefix(f"{SILENT}: "))
                seen, sold = registry.slots(machine), self.told.sold
                self.slots = as_sold(seen, slots_from_json(sold)) if sold else seen
                self._survey_at = clock.monotonic() + SURVEY_AGAIN
                return machine
        raise FalplanError("No such host", f"{self.told.region} has no {self.machine_id}.")

    def look(self, regions: Mapping[str, Mapping[str, Json]], entrance: Entrance) -> None:
        """Look at its runners and at what others take there. Blocks.

        Raises:
            Fenced: another control plane took it.
            FalplanError, OSError: it can't be asked.
        """
        began = clock.monotonic()
        station = self.open(regions, entrance)
        if self._provider is not None and began > self._survey_at:
            self._machine(self._provider)
        seen, reserved = station.observe(self.machine_id), _reserved(station, entrance)
        if self.told.by and began >= self._renew_at:  # after that look, which would have told of another control plane
            station.shell.write_file(f"{station.root}/{HEARD}", b"")
            self._renew_at = began + RENEW
        if self.told.by and began >= self._read_at:
            self.notice, self._read_at = _notice(station), began + READ
        self.seen, self.reserved, self.looked_at = seen, reserved, began
        self.because, self.error, self.heard_at = "", None, clock.monotonic()

    def doubt(self, now: float) -> str:
        """Why it is not known what runs there now: the last look failed, or the one that is under way lasts too long. Empty if it is."""
        if self.because:
            return self.because
        waits = self.looking is not None and not self.looking.done() and now - self.begun_at
        return f"it has not answered for {waits:.0f} s" if waits and waits > SLOW else ""

    def failed(self, exc: Exception) -> None:
        """A look came to no end."""
        because = f"{exc.summary}: {exc.detail}" if isinstance(exc, FalplanError) else str(exc)
        if not self.because:
            log.warning("%s can't be looked at: %s", self.told.address, because)
        self.because, self.error = because.removesuffix(".") or type(exc).__name__, exc

    def room(self, away: str) -> Slots:
        """Its room; none at all where it is `away` or leaving, and why."""
        closed = "it is being removed" if self.told.leaving else ""
        if self.slots is None:
            unknown = away or self.because
            return Slots(self.machine_id, self.told.region, 0, 0, 0, 0, closed=closed, unknown=unknown)
        return replace(self.slots, closed=closed, unknown=away)

    def close(self) -> None:
        """Give up the connection."""
        station = self._give_up()
        if station is not None:
            station.shell.close()

    def retire(self) -> None:
        """The host is connected to anew, by another way: requests that are under way on this one come to their end."""
        station = self._give_up()
        if station is not None and isinstance(station.shell, Forwarding):
            station.shell.retire()
        elif station is not None:
            station.shell.close()

    def _give_up(self) -> Station | None:
        with self._opening:
            station, self.station, self._provider = self.station, None, None
        return station


def _notice(station: Station) -> Notice | None:
    try:
        told = station.shell.read_file(f"{station.root}/{NOTICE}", limit=10_000)
    except FileNotFoundError:
        return None
    return notice_of(told, clock.now())


def _take(station: Station, entrance: Entrance) -> None:
    claim = entrance.claim
    taken = take_claim(station.shell, station.root, claim, replaces=entrance.replaces, succeeds=entrance.succeeds)
    station.fence = Fence(claim.lineage, claim.control_plane, taken.epoch)
    confirm_claim(station.shell, station.root, station.fence)


def _reserved(station: Station, entrance: Entrance) -> list[Reserved]:
    """What runners take there. A ledger that somebody removed is begun anew: only another's claim ends ours."""
    try:
        return station.reserved()
    except Fenced:
        if entrance.claim.lineage in read_ledger(station.shell, station.root).claims:
            raise
        _take(station, entrance)
        return station.reserved()
