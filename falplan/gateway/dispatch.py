"""The dispatcher: queued and direct requests in one line, given to runners. The controller steers it; handlers ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from falplan import clock
from falplan.core.protocol import CancelAnswer
from falplan.core.runtime import Demand, LiveApp, RunnerTarget
from falplan.gateway.queueing import Progress, Queue, Timing
from falplan.gateway.scheduling import Scheduler
from falplan.stores.runtime.interfaces import Added, NewRequest, RequestStore

LARGEST_RESULT = 512 * 1024 * 1024
"""Bytes of one queued request's answer."""


def _nothing(*_: str) -> None:
    pass


class Dispatcher:
    """Gives requests to runners. All methods are called on one event loop.

    `on_demand(endpoint)` is called when something waits and no runner has room; `on_suspect(runner_id, reason)` once for a
    runner that refused a connection, broke one, answered 503, overran request_timeout or asked to be stopped. Both may be
    called often and must return at once. Times come from `now` (epoch seconds) and `monotonic`.
    """

    def __init__(
        self,
        store: RequestStore,
        *,
        now: Callable[[], float] = clock.now,
        monotonic: Callable[[], float] = clock.monotonic,
        new_token: Callable[[], str] = clock.new_uuid,
        on_demand: Callable[[str], None] = _nothing,
        on_suspect: Callable[[str, str], None] = _nothing,
        largest_result: int = LARGEST_RESULT,
        timing: Timing | None = None,
    ) -> None:
        self.now = now
        self.monotonic = monotonic
        self.store = store
        self.scheduler = Scheduler(monotonic, on_demand, on_suspect)
        self.queue = Queue(store, self.scheduler, now, monotonic, new_token, largest_result, timing or Timing())

    # -- for the controller -------------------------------------------------------------------------------------------

    async def recover(self) -> int:
        """At start, once: put the store's unfinished requests back in line. Returns their number.

        Apps may be configured before or after; requests of an app that never is wait on.
        """
        return await self.queue.recover()

    def configure(self, app: LiveApp) -> None:
        """Make an app known, or change what is known of it. Takes effect with the next request or attempt."""
        self.scheduler.configure(app)

    def forget(self, endpoint: str) -> None:
        """Make an app unknown. Requests that wait for it end with 404; those in flight go on."""
        for waiter in self.scheduler.forget(endpoint):
            waiter.granted(None)

    def set_targets(self, endpoint: str, targets: Sequence[RunnerTarget]) -> None:
        """The runners that may take new requests. Requests in flight on others go on undisturbed."""
        self.scheduler.set_targets(endpoint, targets)

    def demand(self, endpoint: str) -> Demand:
        """What callers want of an app now."""
        return self.scheduler.demand(endpoint)

    async def drained(self, runner_id: str) -> None:
        """Wait until a runner has no request. Returns at once for one that is unknown."""
        await self.scheduler.drained(runner_id)

    def abandon(self, runner_id: str) -> None:
        """A runner's process is gone: its requests in flight fail now, as on a broken connection. May be called again."""
        self.scheduler.abandon(runner_id)

    def queue_length(self, endpoint: str) -> int:
        """Requests that wait, queued and direct."""
        return self.scheduler.waiting(endpoint)

    def unfinished(self, endpoint: str) -> list[tuple[str, str, float]]:
        """Queued requests that have not ended: id, status, when they came (epoch seconds); oldest first."""
        return [(request_id, status.value, at) for request_id, status, at in self.queue.unfinished(endpoint)]

    # -- for handlers -------------------------------------------------------------------------------------------------

    def app(self, endpoint: str) -> LiveApp | None:
        """What is known of an app, None if it is unknown."""
        return self.scheduler.app(endpoint)

    async def submit(self, new: NewRequest) -> Added:
        """Accept a request: it is durable when this returns. Raises StoreUnavailable, IdempotencyConflict."""
        return await self.queue.submit(new)

    def progress(self, endpoint: str, request_id: str) -> Progress | None:
        """Where a request stands, None if there is no such request of that endpoint."""
        return self.queue.progress(endpoint, request_id)

    async def changed(self, request_id: str) -> None:
        """Wait until an unfinished request changes its status."""
        await self.queue.changed(request_id)

    async def cancel(self, endpoint: str, request_id: str) -> CancelAnswer:
        """Take a request back; it is COMPLETED when this returns."""
        return await self.queue.cancel(endpoint, request_id)

    async def prune(self) -> int:
        """Forget results whose retention is over. Returns their number."""
        return await self.store.prune(now=self.now())

    # -- the end ------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Give nothing more to runners. Requests in flight go on."""
        self.scheduler.stop()

    def give_way(self) -> None:
        """Another gateway takes over: those who wait go there. Requests in flight go on."""
        self.queue.give_way()
        self.scheduler.give_way()

    async def settle(self, within: float) -> None:
        """Wait until queued requests in flight have ended. After `within` seconds the rest is left to the next gateway."""
        await self.queue.settle(within)

    async def close(self) -> None:
        """Close the connections to runners."""
        await self.scheduler.close()
