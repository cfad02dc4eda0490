"""Answers of the gateway itself, and the exceptions that become one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from falplan.core import protocol
from falplan.core.runtime import Outcome
from falplan.core.values import Json

SERVER = "falplan"


class Refusal(Exception):
    """The request is answered with one of fal's platform errors. `close` also ends the connection."""

    def __init__(
        self, error_type: str, detail: str, *, headers: Mapping[str, str] | None = None, close: bool = False
    ) -> None:
        super().__init__(detail)
        self.error_type = error_type
        self.detail = detail
        self.headers = dict(headers or {})
        self.close = close

    def to_response(self) -> web.Response:
        response = of_outcome(protocol.failed(self.error_type, self.detail))
        response.headers.update(self.headers)
        if self.close:
            response.force_close()
        return response


def of_json(body: Mapping[str, Json], status: int = 200) -> web.Response:
    """A JSON answer that nobody may cache."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json", headers=headers)


def of_outcome(outcome: Outcome) -> web.Response:
    """A request's end, as the app or the platform put it."""
    return web.Response(body=outcome.body, status=outcome.status_code, headers=outcome.headers)
