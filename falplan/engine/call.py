"""Calls an app as fal's clients do: submit, follow the status with its logs, fetch the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import urllib3

from falplan.core.errors import FalplanError

POLL = 0.1  # seconds, as fal_client polls


def call(
    access: Mapping[str, str], ca: str, endpoint: str, path: str, argument: Any, show: Callable[[str], None]
) -> tuple[int, str]:
    """(status code, body) of the app's answer. `access` is what `falplan env` prints.

    Raises:
        FalplanError: the gateway refused the request or can't be reached.
    """
    pool = urllib3.PoolManager(ca_certs=ca, headers={"authorization": f"Key {access['FAL_KEY']}"}, retries=False)
    base = f"https://{access['FAL_QUEUE_RUN_HOST']}/{endpoint}"
    url = f"{base}/{path.strip('/')}" if path.strip("/") else base
    try:
        submitted = _json(pool.request("POST", url, json=argument, timeout=120))
        _follow(pool, submitted["status_url"], show)
        answer = pool.request("GET", submitted["response_url"], timeout=120)
    except urllib3.exceptions.HTTPError as exc:
        raise FalplanError("The gateway does not answer", f"{url}: {exc}") from exc
    return answer.status, answer.data.decode(errors="replace")


def _follow(pool: urllib3.PoolManager, status_url: str, show: Callable[[str], None]) -> None:
    printed, told = 0, ""
    while True:
        status = _json(pool.request("GET", f"{status_url}?logs=true", timeout=30))
        done = status["status"] == "COMPLETED"
        if status["status"] != told and not done:
            told = status["status"]
            show(told)
        for entry in (status.get("logs") or [])[printed:]:
            printed += 1
            show(f"  {entry['message']}")
        if done:
            return
        time.sleep(POLL)


def _json(response: urllib3.BaseHTTPResponse) -> Any:
    body = json.loads(response.data) if response.data else {}
    if response.status >= 400:
        raise FalplanError(f"The gateway answered {response.status}", str(body.get("detail", "")))
    return body
