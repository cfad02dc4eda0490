"""The queue's HTTP interface: submit, status, status stream, result, cancel."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qsl

from aiohttp import web

from falplan.core import protocol
from falplan.core.protocol import Action, CallOptions, OfRequest, StatusAnswer, Submit, SubmitAnswer, urls_of
from falplan.core.runtime import Key, LiveApp, LogEntry, RequestStatus
from falplan.core.values import canonical
from falplan.gateway.auth import keeps_authorization
from falplan.gateway.bodies import CallerBody
from falplan.gateway.dispatch import Dispatcher
from falplan.gateway.headers import to_queue
from falplan.gateway.queueing import Progress
from falplan.gateway.replies import SERVER, Refusal, of_json, of_outcome
from falplan.stores.runtime.interfaces import IdempotencyConflict, IdempotencyKey, NewRequest

LogsOf: TypeAlias = Callable[[str, str, float], Awaitable[list[LogEntry]]]
"""(runner id, request id, epoch seconds) -> what that runner printed for that request since then, oldest first."""

StreamMoved: TypeAlias = Callable[[web.BaseRequest, web.StreamResponse], Awaitable[bool]]
"""Goes on with an answer that was begun here, if another gateway has taken over. False: none has."""

IDEMPOTENCY = 24 * 3600.0
"""Seconds that an Idempotency-Key is remembered."""

COMMENT_EVERY = 15.0
LOGS_EVERY = 0.5


@dataclass(slots=True)
class QueueApi:
    """Answers what is asked of the queue. `base` arguments are scheme and authority that the caller reached us at."""

    dispatcher: Dispatcher
    logs_of: LogsOf

    async def submit(
        self,
        request: web.BaseRequest,
        app: LiveApp,
        it: Submit,
        *,
        query: str,
        options: CallOptions,
        body: CallerBody,
        caller: Key | None,
        request_id: str,
        base: str,
    ) -> web.Response:
        """Accept a request: durable before the answer leaves. Raises Refusal, StoreUnavailable."""
        query = self._check_query(app.endpoint, query)
        await body.begin()
        content = await body.read()
        now = self.dispatcher.now()
        start = options.start_timeout or app.request_start_timeout
        new = NewRequest(
            request_id,
            app.endpoint,
            it.sub_path,
            query,
            to_queue(request.headers, keep_authorization=keeps_authorization(app, caller)),
            content,
            now,
            options.low_priority,
            options.hint,
            options.no_retry,
            None if start is None else now + start,
            _idempotency(options, it, query, content, caller, now),
        )
        try:
            added = await self.dispatcher.submit(new)
        except IdempotencyConflict as exc:
            raise Refusal("idempotency_mismatch", f"{exc.summary}. {exc.detail}") from exc
        progress = self.dispatcher.progress(app.endpoint, added.request_id)
        urls = urls_of(base, app.endpoint, added.request_id)
        answer = SubmitAnswer(added.request_id, urls, progress.position if progress else 0)
        response = of_json(answer.to_json())
        response.headers[protocol.REQUEST_ID] = added.request_id
        return response

    async def of_request(
        self, request: web.BaseRequest, it: OfRequest, *, query: str, base: str, moved: StreamMoved
    ) -> web.StreamResponse:
        """Answer what is asked of a request. Raises Refusal for one that is unknown.

        `moved` lets another gateway go on with a status stream, if one takes over.
        """
        if it.action is Action.CANCEL:
            answer = await self.dispatcher.cancel(it.endpoint, it.request_id)
            return of_json({"status": answer.value}, protocol.CANCEL_CODES[answer])
        progress = self.dispatcher.progress(it.endpoint, it.request_id)
        if progress is None:
            return of_json(
                {"status": "NOT_FOUND", "detail": "There is no such request.", "error_type": "not_found"}, 404
            )
        logs = dict(parse_qsl(query)).get("logs", "").lower() in ("1", "true")
        if it.action is Action.RESULT:
            return self._result(it, progress)
        if it.action is Action.STREAM:
            return await self._stream(request, it, logs=logs, base=base, moved=moved)
        status = 200 if progress.status is RequestStatus.COMPLETED else 202
        return of_json(self._status(progress, base, await self._logs(progress) if logs else None).to_json(), status)

    def _check_query(self, endpoint: str, query: str) -> str:
        pairs = dict(parse_qsl(query, keep_blank_values=True))
        if "fal_webhook" in pairs:
            raise Refusal("bad_request", "Webhooks are not offered by this gateway: poll the status, or stream it.")
        if (longest := pairs.get("fal_max_queue_length")) is not None:
            if not longest.isascii() or not longest.isdecimal():
                raise Refusal("bad_request", "fal_max_queue_length must be a number.")
            if (length := self.dispatcher.queue_length(endpoint)) > int(longest[:18]):
                raise Refusal("queue_full", f"{length} requests wait; the caller accepts up to {longest}.")
        return "&".join(p for p in query.split("&") if p and not p.startswith("fal_max_queue_length="))

    def _result(self, it: OfRequest, progress: Progress) -> web.Response:
        outcome = self.dispatcher.store.result(it.endpoint, it.request_id)
        if outcome is not None:
            return of_outcome(outcome)
        waits = "in progress" if progress.status is RequestStatus.IN_PROGRESS else "in the queue"
        raise Refusal("bad_request", f"Request is still {waits}: poll its status until it is COMPLETED.")

    def _status(self, progress: Progress, base: str, logs: list[LogEntry] | None) -> StatusAnswer:
        request = progress.request
        return StatusAnswer(
            progress.status,
            request.request_id,
            urls_of(base, request.endpoint, request.request_id),
            progress.position,
            None if logs is None else tuple(logs),
            request.inference_time,
            request.error,
            request.error_type,
        )

    async def _logs(self, progress: Progress) -> list[LogEntry]:
        request = progress.request
        runners = dict.fromkeys(progress.runners)  # each once, in the order in which they were tried
        return [e for r in runners for e in await self.logs_of(r, request.request_id, request.created_at)]

    async def _stream(
        self, request: web.BaseRequest, it: OfRequest, *, logs: bool, base: str, moved: StreamMoved
    ) -> web.StreamResponse:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "Server": SERVER,
            protocol.REQUEST_ID: it.request_id,
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        sent, last, quiet = 0, b"", 0.0
        while True:
            if await moved(request, response):
                return response
            if (progress := self.dispatcher.progress(it.endpoint, it.request_id)) is None:
                break
            entries = await self._logs(progress) if logs else []
            answer = self._status(progress, base, entries[sent:] if logs else None)
            event = json.dumps(answer.to_json()).encode()
            if event != last and (entries[sent:] or not _same_but_logs(event, last)):
                await response.write(b"data: " + event + b"\n\n")
                last, quiet = event, 0.0
            sent = len(entries)
            if progress.status is RequestStatus.COMPLETED:
                break
            pause = LOGS_EVERY if logs else COMMENT_EVERY
            try:
                async with asyncio.timeout(pause):
                    await self.dispatcher.changed(it.request_id)
            except TimeoutError:
                quiet += pause
            if quiet >= COMMENT_EVERY:
                await response.write(b": still here\n\n")
                quiet = 0.0
        await response.write_eof()
        return response


def _same_but_logs(event: bytes, last: bytes) -> bool:
    return bool(last) and {**json.loads(event), "logs": None} == {**json.loads(last), "logs": None}


def _idempotency(
    options: CallOptions, it: Submit, query: str, body: bytes, caller: Key | None, now: float
) -> IdempotencyKey | None:
    if options.idempotency_key is None:
        return None
    asked = canonical([it.endpoint, it.sub_path, query, hashlib.sha256(body).hexdigest()])
    name = caller.key_id if caller else ""
    return IdempotencyKey(name, options.idempotency_key, hashlib.sha256(asked).hexdigest(), now + IDEMPOTENCY)
