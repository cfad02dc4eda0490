"""A caller's body, read within limits of size and patience. Never decompressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from falplan.gateway.replies import Refusal

PATIENCE = 10.0
"""Seconds that a caller may take before it must have sent at SLOWEST."""

SLOWEST = 1024
"""Bytes a second."""


@dataclass(slots=True, eq=False)
class CallerBody:
    """The body of one request. `largest` in bytes. `failure` is what reading it ended with, if not well."""

    request: web.BaseRequest
    largest: int
    patience: float = PATIENCE
    received: int = 0
    touched: bool = False
    failure: Refusal | None = None
    _waited: float = 0.0

    @property
    def length(self) -> int | None:
        """Content-Length; None for a chunked body."""
        return self.request.content_length if self.request.body_exists else 0

    async def begin(self) -> None:
        """Refuse a body that says that it is too large; otherwise let the caller send it.

        Raises:
            Refusal: payload_too_large.
        """
        if (self.length or 0) > self.largest:
            raise self._too_large()
        if self.request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request.writer.output_size = 0  # so that an error can still be answered

    async def read(self) -> bytes:
        """The whole body. Raises Refusal."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Refusal: payload_too_large, slow_request or bad_request."""
        self.touched = True
        try:
            while chunk := await self._next():
                self.received += len(chunk)
                if self.received > self.largest:
                    raise self._too_large()
                yield chunk
        except Refusal as refusal:
            self.failure = refusal
            raise

    async def _next(self) -> bytes:
        loop, content = asyncio.get_running_loop(), self.request.content
        began = loop.time()
        try:
            if content.is_eof():  # all of it is here
                return content.read_nowait()
            async with asyncio.timeout(self.patience + self.received / SLOWEST - self._waited):
                return await content.readany()
        except TimeoutError:
            detail = f"The body came at less than {SLOWEST} bytes a second."
            raise Refusal("slow_request", detail, close=True) from None
        except (web.RequestPayloadError, HttpProcessingError) as exc:
            raise Refusal("bad_request", "The body is not framed as its headers say.", close=True) from exc
        finally:
            self._waited += loop.time() - began

    def _too_large(self) -> Refusal:
        return Refusal("payload_too_large", f"A body may have up to {self.largest} bytes.", close=True)
