"""Gives waiting requests to runners with room. Lives in memory; knows neither HTTP nor what a request is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from falplan.core.runtime import Demand, LiveApp, RunnerTarget
from falplan.gateway.lines import Line, Waiter
from falplan.gateway.runners import RunnerLink


class NoSuchApp(LookupError):
    """The app is not known, or was removed while the request waited."""


class GaveWay(LookupError):
    """Another gateway takes over; no runner has begun the request."""


class StartTimeout(TimeoutError):
    """No runner had room before the deadline."""


@dataclass(slots=True)
class _Endpoint:
    """One app. `app` is None while it has requests from before a restart but is not configured yet."""

    app: LiveApp | None = None
    line: Line = field(default_factory=Line)
    resting: set[Waiter] = field(default_factory=set)  # between two attempts
    links: dict[str, RunnerLink] = field(default_factory=dict)


@dataclass(slots=True)
class Scheduler:
    """The lines of all apps and the slots of all runners. Used from one event loop.

    `on_demand(endpoint)`: something waits and no runner has room. `on_suspect(runner_id, reason)`: it must be replaced.
    """

    monotonic: Callable[[], float]
    on_demand: Callable[[str], None]
    on_suspect: Callable[[str, str], None]
    _endpoints: dict[str, _Endpoint] = field(default_factory=dict)
    _links: dict[str, RunnerLink] = field(default_factory=dict)
    _of: dict[str, dict[str, RunnerLink]] = field(default_factory=dict)  #: the same by endpoint
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _forgotten: set[str] = field(default_factory=set)
    _stopped: bool = False
    _gave_way: bool = False

    # -- what the controller says -------------------------------------------------------------------------------------

    def app(self, endpoint: str) -> LiveApp | None:
        """What is known of an app, None if it is unknown."""
        found = self._endpoints.get(endpoint)
        return found.app if found else None

    def configure(self, app: LiveApp) -> None:
        """Make an app known, or change it."""
        self._forgotten.discard(app.endpoint)
        self._endpoint(app.endpoint).app = app
        self._pump(app.endpoint)

    def forget(self, endpoint: str) -> list[Waiter]:
        """Make an app unknown; returns those who waited. Requests in flight go on."""
        self._forgotten.add(endpoint)
        gone = self._endpoints.pop(endpoint, None)
        if gone is None:
            return []
        for link in list(gone.links.values()):
            link.listed = False
            self._drop_if_over(link)
        return [*gone.line, *gone.resting]

    def set_targets(self, endpoint: str, targets: Sequence[RunnerTarget]) -> None:
        """The runners that may take new requests. Those in flight on others go on undisturbed."""
        it = self._endpoint(endpoint)
        wanted = {t.runner_id: t for t in targets}
        for runner_id, link in list(it.links.items()):
            if runner_id not in wanted:
                link.listed = False
                del it.links[runner_id]
                self._drop_if_over(link)
        for runner_id, target in wanted.items():
            link = self._links.setdefault(runner_id, RunnerLink(target))
            link.target, link.listed = target, True
            it.links[runner_id] = self._of.setdefault(endpoint, {})[runner_id] = link
        self._pump(endpoint)

    def demand(self, endpoint: str) -> Demand:
        """What callers want of an app now."""
        now = self.monotonic()
        it = self._endpoints.get(endpoint) or _Endpoint()
        links = self._of.get(endpoint, {}).values()
        return Demand(
            endpoint,
            tuple(max(0.0, now - w.since) for w in (*it.line, *it.resting)),
            {link.target.runner_id: link.taken for link in links if link.taken},
            {
                link.target.runner_id: now - link.idle_since
                for link in links
                if not link.taken and link.idle_since is not None
            },
        )

    async def drained(self, runner_id: str) -> None:
        """Wait until a runner has no request."""
        if link := self._links.get(runner_id):
            await link.drained()

    def abandon(self, runner_id: str) -> None:
        """A runner's process is gone: its exchanges fail now."""
        if link := self._links.get(runner_id):
            link.abandon()
            link.listed = False
            if it := self._endpoints.get(link.target.endpoint):
                it.links.pop(runner_id, None)
            self._drop_if_over(link)

    # -- what requests ask --------------------------------------------------------------------------------------------

    async def acquire(self, endpoint: str, waiter: Waiter, *, deadline: float | None) -> RunnerLink:
        """Wait in line for a slot; `deadline` on the event loop's clock. The slot must be given back with `release`.

        Raises:
            StartTimeout: the deadline came first.
            NoSuchApp: the app was removed meanwhile.
        """
        turn: asyncio.Future[RunnerLink | None] = asyncio.get_running_loop().create_future()

        def granted(link: RunnerLink | None) -> None:
            if not turn.done():
                turn.set_result(link)
            elif link:
                self.release(link)  # the wait has ended, and its task has not run since

        waiter.granted = granted
        self.enter(endpoint, waiter)
        try:
            async with asyncio.timeout_at(deadline):
                link = await turn
        except BaseException as exc:
            self.leave(endpoint, waiter)
            if turn.done() and not turn.cancelled() and (given := turn.result()):
                self.release(given)  # the turn came together with the end of the wait
            if isinstance(exc, TimeoutError):
                raise StartTimeout from None
            raise
        if link is None:
            raise GaveWay(endpoint) if self._gave_way else NoSuchApp(endpoint)
        return link

    def enter(self, endpoint: str, waiter: Waiter) -> None:
        """Stand in line; `waiter.granted` is called when it is its turn, perhaps at once; with None if the app is gone."""
        if endpoint in self._forgotten or self._gave_way:
            waiter.granted(None)
            return
        it = self._endpoint(endpoint)
        it.resting.discard(waiter)
        it.line.enter(waiter)
        self._pump(endpoint)

    def rest(self, endpoint: str, waiter: Waiter) -> None:
        """Count as waiting without standing in line, until `enter`."""
        self._endpoint(endpoint).resting.add(waiter)

    def leave(self, endpoint: str, waiter: Waiter) -> None:
        """Stop waiting. May be called again."""
        if it := self._endpoints.get(endpoint):
            it.resting.discard(waiter)
            if waiter.ticket:
                it.line.leave(waiter)

    def position(self, endpoint: str, waiter: Waiter) -> int:
        """How many are served before this one."""
        it = self._endpoints.get(endpoint)
        return it.line.position(waiter) if it else 0

    def waiting(self, endpoint: str) -> int:
        """How many wait."""
        it = self._endpoints.get(endpoint)
        return len(it.line) + len(it.resting) if it else 0

    def release(self, link: RunnerLink) -> None:
        """Give a slot back; the next one in line gets it."""
        link.free(self.monotonic())
        self._drop_if_over(link)
        self._pump(link.target.endpoint)

    def suspect(self, link: RunnerLink, reason: str) -> None:
        """Give a runner nothing more, and say so once."""
        if link.broken is None:
            link.broken = reason
            self.on_suspect(link.target.runner_id, reason)

    # -- the end ------------------------------------------------------------------------------------------------------

    def give_way(self) -> None:
        """Give nothing more to runners, and let those who wait go to the gateway that takes over. Exchanges in flight go on."""
        self._stopped = self._gave_way = True
        for it in self._endpoints.values():
            for waiter in [*it.line, *it.resting]:
                waiter.granted(None)

    def stop(self) -> None:
        """Give nothing more to runners. Exchanges in flight go on."""
        self._stopped = True

    async def close(self) -> None:
        """Close all connections to runners."""
        self.stop()
        await asyncio.gather(*(link.close() for link in self._links.values()), *self._closing)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _endpoint(self, endpoint: str) -> _Endpoint:
        return self._endpoints.setdefault(endpoint, _Endpoint())

    def _pump(self, endpoint: str) -> None:
        it = self._endpoints.get(endpoint)
        if it is None or it.app is None or self._stopped:
            return
        while len(it.line):
            link = _best(it.links.values(), it.line.first().hint)
            if link is None:
                self.on_demand(endpoint)
                return
            link.taken += 1
            it.line.pop().granted(link)

    def _drop_if_over(self, link: RunnerLink) -> None:
        if link.is_over and self._links.get(link.target.runner_id) is link:
            del self._links[link.target.runner_id]
            others = self._of[link.target.endpoint]
            del others[link.target.runner_id]
            if not others:
                del self._of[link.target.endpoint]
            task = asyncio.get_running_loop().create_task(link.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _best(links: Iterable[RunnerLink], hint: str | None) -> RunnerLink | None:
    """The least loaded runner with room; one that advertises the hint comes first."""
    free = [link for link in links if link.has_room]
    if not free:
        return None
    return min(free, key=lambda link: (hint not in link.hints if hint else False, link.taken))
