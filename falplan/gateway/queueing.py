"""Durable requests on their way through the runners: submitted, attempted, tried again, cancelled, ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from multidict import CIMultiDict

from falplan.core import protocol
from falplan.core.protocol import CancelAnswer
from falplan.core.requests import Failure, Retry, decide_retry, why_suspect
from falplan.core.runtime import Outcome, RequestStatus
from falplan.gateway.headers import stored_result
from falplan.gateway.lines import Waiter
from falplan.gateway.runners import Call, RunnerFailed, RunnerLink
from falplan.gateway.scheduling import Scheduler
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.database import StoreUnavailable
from falplan.stores.runtime.interfaces import Added, NewRequest, RequestStore, StoredRequest

T = TypeVar("T")

CANCEL_PATIENCE = 10.0
"""Seconds that a runner has to answer a POST to /cancel."""

UNWATCHED = 0.1
"""Seconds between two looks at a request that this gateway does not work on."""

FAILED: dict[Failure, str] = {
    Failure.REFUSED: "runner_connection_refused",
    Failure.LOST: "runner_disconnected",
    Failure.INCOMPLETE: "runner_incomplete_response",
    Failure.TIMEOUT: "request_timeout",
}
"""failure -> error_type that the caller gets."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `retention` is how long a result is kept; `storage_pause` the wait before a failed write is tried again."""

    retention: float = 3600.0
    storage_pause: float = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """What there is to know of a request now."""

    request: StoredRequest
    status: RequestStatus
    position: int
    runners: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Active:
    """An unfinished request. `runners` grows with each attempt; `link` is the one that works on it."""

    request: StoredRequest
    waiter: Waiter
    status: RequestStatus = RequestStatus.IN_QUEUE
    attempts: int = 0
    runners: tuple[str, ...] = ()
    link: RunnerLink | None = None
    expiry: asyncio.TimerHandle | None = None
    watchers: list[asyncio.Future[None]] = field(default_factory=list)


@dataclass(slots=True)
class Queue:
    """All unfinished durable requests of this gateway, in memory beside the store that outlives it."""

    store: RequestStore
    scheduler: Scheduler
    now: Callable[[], float]
    monotonic: Callable[[], float]
    new_token: Callable[[], str]
    largest_result: int
    timing: Timing = field(default_factory=Timing)
    _active: dict[str, _Active] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _gave_way: bool = False

    async def recover(self) -> int:
        """At start: put all unfinished requests of the store back in line. Returns their number."""
        for request in await self.store.recover():
            self._enter(request)
        return len(self._active)

    async def submit(self, new: NewRequest) -> Added:
        """Accept a request: it is durable when this returns. A caller that goes away meanwhile changes nothing."""
        return await asyncio.shield(self._spawn(self._submit(new)))

    def progress(self, endpoint: str, request_id: str) -> Progress | None:
        """Where a request stands; None if that endpoint has none of that id, or it was forgotten."""
        active = self._active.get(request_id)
        if active and active.request.endpoint == endpoint:
            waits = active.status is RequestStatus.IN_QUEUE
            position = self.scheduler.position(endpoint, active.waiter) if waits else 0
            return Progress(active.request, active.status, position, active.runners)
        stored = self.store.get(endpoint, request_id)
        return Progress(stored, stored.status, 0, stored.runners) if stored else None

    def unfinished(self, endpoint: str) -> list[tuple[str, RequestStatus, float]]:
        """Requests of an endpoint that have not ended: id, status, when it came (epoch seconds); oldest first."""
        found = [a for a in self._active.values() if a.request.endpoint == endpoint]
        found.sort(key=lambda a: (a.request.created_at, a.request.request_id))
        return [(a.request.request_id, a.status, a.request.created_at) for a in found]

    async def changed(self, request_id: str) -> None:
        """Wait until the request starts, is put back, or ends. Returns soon if it is not active."""
        active = self._active.get(request_id)
        if active is None:
            await asyncio.sleep(UNWATCHED)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        active.watchers.append(waiting)
        try:
            await waiting
        finally:
            if waiting in active.watchers:
                active.watchers.remove(waiting)

    async def cancel(self, endpoint: str, request_id: str) -> CancelAnswer:
        """Take a request back. It is COMPLETED when this returns, whatever its runner does."""
        return await asyncio.shield(self._spawn(self._cancel(endpoint, request_id)))

    def give_way(self) -> None:
        """Another gateway takes over what waits. Attempts in flight go on; who watches a request looks again."""
        self._gave_way = True
        for active in self._active.values():
            if active.expiry:
                active.expiry.cancel()
            self._moved(active, active.status)

    async def settle(self, within: float) -> None:
        """Wait until attempts in flight have ended. Those that have not are tried again at the next start."""
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=within)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        for active in self._active.values():
            if active.expiry:
                active.expiry.cancel()

    # -- entering and leaving -----------------------------------------------------------------------------------------

    async def _submit(self, new: NewRequest) -> Added:
        added = await self.store.add(new)
        fp("queue.submit.after_add")
        if added.is_new:
            self._enter(_as_stored(new))
        return added

    def _enter(self, request: StoredRequest) -> None:
        since = self.monotonic() - max(0.0, self.now() - request.created_at)
        active = _Active(
            request,
            Waiter(since, _never, request.low_priority, request.hint),
            attempts=request.attempts,
            runners=request.runners,
        )
        active.waiter.granted = lambda link: self._granted(active, link)
        self._active[request.request_id] = active
        if request.start_by is not None:
            left = max(0.0, request.start_by - self.now())
            active.expiry = asyncio.get_running_loop().call_later(left, self._expired, active)
        self.scheduler.enter(request.endpoint, active.waiter)

    def _granted(self, active: _Active, link: RunnerLink | None) -> None:
        if link is None and self._gave_way:
            return  # it stands in the store, and in the other gateway's line
        if link is None:
            outcome = protocol.failed("not_found", "The app was removed before the request began.")
            self._spawn(self._give_up(active, outcome))
        else:
            self._spawn(self._attempt(active, link))

    def _expired(self, active: _Active) -> None:
        if active.status is RequestStatus.IN_QUEUE:
            self.scheduler.leave(active.request.endpoint, active.waiter)
            detail = "No runner began the request within its start timeout."
            self._spawn(self._give_up(active, protocol.failed("request_timeout", detail, user_timeout=True)))

    async def _give_up(self, active: _Active, outcome: Outcome) -> None:
        request_id, now = active.request.request_id, self.now()
        expires_at = now + self.timing.retention

        async def end() -> bool:
            return await self.store.give_up(request_id, outcome=outcome, now=now, expires_at=expires_at)

        if await self._persist(end):
            self._done(active)

    def _done(self, active: _Active) -> None:
        self._active.pop(active.request.request_id, None)
        if active.expiry:
            active.expiry.cancel()
        self._moved(active, RequestStatus.COMPLETED)

    def _moved(self, active: _Active, status: RequestStatus) -> None:
        active.status = status
        watchers, active.watchers = active.watchers, []
        for waiting in watchers:
            if not waiting.done():
                waiting.set_result(None)

    # -- attempts -----------------------------------------------------------------------------------------------------

    async def _attempt(self, active: _Active, link: RunnerLink) -> None:
        token, held = self.new_token(), True
        try:
            if not await self._start(active, link, token):
                return
            began = self.monotonic()
            result, needs_retry = await self._ask(active, link)
            held = self._free(active, link)
            await self._conclude(active, token, result, needs_retry, self.monotonic() - began)
        finally:
            if held:
                self._free(active, link)

    async def _start(self, active: _Active, link: RunnerLink, token: str) -> bool:
        request_id, runner_id = active.request.request_id, link.target.runner_id
        active.link = link
        try:
            started = await self.store.start(request_id, token=token, runner_id=runner_id, now=self.now())
        except StoreUnavailable:
            self._again(active, self.timing.storage_pause)
            return False
        if not started:  # it was cancelled, or its time was over, while it got its turn
            return False
        fp("queue.attempt.after_start")
        active.attempts += 1
        active.runners = (*active.runners, runner_id)
        self._moved(active, RequestStatus.IN_PROGRESS)
        return True

    async def _ask(self, active: _Active, link: RunnerLink) -> tuple[Outcome | Failure, str | None]:
        request = active.request
        app = self.scheduler.app(request.endpoint)
        headers = CIMultiDict(request.headers)
        headers[protocol.REQUEST_ID] = request.request_id
        headers[protocol.ENDPOINT] = request.endpoint
        try:
            body = self.store.body(request.request_id)
        except LookupError:  # cancelled since: the fence discards whatever this returns
            return protocol.failed("client_cancelled", "The request was cancelled."), None
        call = Call("POST", request.sub_path or "/", request.query, headers, body)
        try:
            return await self._exchange(link, call, app.request_timeout if app else 3600.0)
        except RunnerFailed as exc:
            self.scheduler.suspect(link, f"{why_suspect(exc.failure)}: {exc}")
            return exc.failure, None
        except Exception as exc:  # noqa: BLE001 - the border of the task: a bug must not leave a request unfinished
            asyncio.get_running_loop().call_exception_handler({"message": "an attempt failed", "exception": exc})
            return protocol.failed("internal_error", "The gateway failed to ask the runner."), None

    async def _exchange(self, link: RunnerLink, call: Call, limit: float) -> tuple[Outcome, str | None]:
        exchange = await link.open(call, limit=limit)
        try:
            parts, size = [], 0
            while part := await exchange.chunk():
                parts.append(part)
                size += len(part)
                if size > self.largest_result:
                    detail = f"The answer is larger than {self.largest_result} bytes."
                    return protocol.failed("runner_server_error", detail), "0"
            status = exchange.status
            error, error_type = protocol.error_of_answer(status)
            outcome = Outcome(status, stored_result(exchange.headers, status), b"".join(parts), error, error_type)
            reason = why_suspect(outcome)
            if exchange.headers.get(protocol.STOP_RUNNER, "").lower() == "true":
                reason = "it asked to be stopped"
            if reason:
                self.scheduler.suspect(link, reason)
            return outcome, exchange.headers.get(protocol.NEEDS_RETRY)
        finally:
            exchange.close()

    async def _conclude(
        self, active: _Active, token: str, result: Outcome | Failure, needs_retry: str | None, seconds: float
    ) -> None:
        request, app = active.request, self.scheduler.app(active.request.endpoint)
        decision = decide_retry(
            result,
            attempt=active.attempts,
            no_retry=request.no_retry,
            skip_conditions=app.skip_retry_conditions if app else (),
            needs_retry=needs_retry,
        )
        if isinstance(decision, Retry):
            if await self._persist(lambda: self.store.requeue(request.request_id, token=token)):
                fp("queue.attempt.after_requeue")
                self._again(active, decision.delay)
            return
        outcome = _final(result, decision.because, seconds)
        now = self.now()
        expires_at = now + self.timing.retention

        async def end() -> bool:
            return await self.store.complete(
                request.request_id, token=token, outcome=outcome, now=now, expires_at=expires_at
            )

        if await self._persist(end):
            fp("queue.attempt.after_complete")
            self._done(active)

    def _again(self, active: _Active, delay: float) -> None:
        request = active.request
        if request.request_id not in self._active:
            return  # cancelled since
        self._moved(active, RequestStatus.IN_QUEUE)
        self.scheduler.rest(request.endpoint, active.waiter)

        def enter() -> None:
            if request.request_id not in self._active:
                return
            if request.start_by is not None and self.now() >= request.start_by:
                self._expired(active)
            else:
                self.scheduler.enter(request.endpoint, active.waiter)

        asyncio.get_running_loop().call_later(delay, enter)

    def _free(self, active: _Active, link: RunnerLink) -> bool:
        active.link = None
        self.scheduler.release(link)
        return False

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write what has happened already: it can't be refused, only delayed."""
        while True:
            try:
                return await write()
            except StoreUnavailable:
                await asyncio.sleep(self.timing.storage_pause)

    # -- cancelling ---------------------------------------------------------------------------------------------------

    async def _cancel(self, endpoint: str, request_id: str) -> CancelAnswer:
        outcome, now = protocol.failed("client_cancelled", "The request was cancelled by the caller."), self.now()
        before = await self.store.cancel(
            endpoint, request_id, outcome=outcome, now=now, expires_at=now + self.timing.retention
        )
        fp("queue.cancel.after_commit")
        if before is None:
            return CancelAnswer.NOT_FOUND
        active = self._active.get(request_id)
        if active:
            self.scheduler.leave(endpoint, active.waiter)
            link = active.link
            self._done(active)
            if link and before is RequestStatus.IN_PROGRESS:
                self._spawn(self._tell_runner(active.request, link))
        if before is RequestStatus.COMPLETED:
            return CancelAnswer.ALREADY_COMPLETED
        return CancelAnswer.CANCELLED if before is RequestStatus.IN_QUEUE else CancelAnswer.REQUESTED

    async def _tell_runner(self, request: StoredRequest, link: RunnerLink) -> None:
        """Ask the app to stop. Most apps have no such route; the slot stays taken until the runner answers the request."""
        headers = CIMultiDict({protocol.REQUEST_ID: request.request_id, protocol.ENDPOINT: request.endpoint})
        path = request.sub_path.rstrip("/") + "/cancel"
        with contextlib.suppress(RunnerFailed):
            exchange = await link.open(Call("POST", path, "", headers, b""), limit=CANCEL_PATIENCE)
            try:
                while await exchange.chunk():
                    pass
            finally:
                exchange.close()

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _never(_: RunnerLink | None) -> None:
    raise AssertionError("replaced before the waiter stands in line")


def _final(result: Outcome | Failure, because: str, seconds: float) -> Outcome:
    if isinstance(result, Failure):
        return protocol.failed(FAILED[result], f"The request failed: {because}.")
    return Outcome(result.status_code, result.headers, result.body, result.error, result.error_type, seconds)


def _as_stored(new: NewRequest) -> StoredRequest:
    return StoredRequest(
        new.request_id,
        new.endpoint,
        new.sub_path,
        new.query,
        new.headers,
        new.low_priority,
        new.hint,
        new.no_retry,
        new.created_at,
        new.start_by,
        RequestStatus.IN_QUEUE,
        0,
        (),
    )
