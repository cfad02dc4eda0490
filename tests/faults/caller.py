"""A caller of the queue who writes down what it sees, for `history` to judge."""

from __future__ import annotations

import json
import time
from typing import Any

import urllib3

from .history import Recorder, read, violations
from .sandbox import Sandbox, client_environ


class Caller:
    """Submits and follows requests, and writes down what it saw."""

    def __init__(self, box: Sandbox, endpoint: str = "acme/one") -> None:
        values = client_environ(box)
        self.endpoint = endpoint
        self.base = f"https://{values['FAL_QUEUE_RUN_HOST']}"
        self.pool = urllib3.PoolManager(
            ca_certs=values["SSL_CERT_FILE"],
            headers={"authorization": f"Key {values['FAL_KEY']}"},
            retries=False,
            maxsize=32,
        )
        self.record = Recorder(box.folder / "history.jsonl")

    def submit(self, n: int, **body: Any) -> str | None:
        try:
            answer = self.pool.request("POST", f"{self.base}/{self.endpoint}", json={"n": n, **body}, timeout=30)
        except urllib3.exceptions.HTTPError:
            self.record(op="submit", n=n, id=None, ok=None)
            return None
        if answer.status >= 400:
            self.record(op="submit", n=n, id=None, ok=False)
            return None
        request_id = str(answer.json()["request_id"])
        self.record(op="submit", n=n, id=request_id, ok=True)
        return request_id

    def status(self, request_id: str) -> str:
        """Where a request stands; nothing is written down."""
        url = f"{self.base}/{self.endpoint}/requests/{request_id}/status"
        return str(self.pool.request("GET", url, timeout=30).json()["status"])

    def look(self, request_id: str) -> bool:
        """Write down a request's status, and its result once it has one. True: COMPLETED."""
        url = f"{self.base}/{self.endpoint}/requests/{request_id}"
        status = self.pool.request("GET", f"{url}/status", timeout=30).json()["status"]
        result = None
        if status == "COMPLETED":
            answer = self.pool.request("GET", url, timeout=30)
            body = answer.json()
            result = {"ok": answer.status == 200, "n": body.get("n"), "status": answer.status}
        self.record(op="seen", id=request_id, status=status, result=result)
        return bool(status == "COMPLETED")

    def finish(self, ids: list[str], seconds: float = 90) -> None:
        """Follow requests until all are COMPLETED, then look once more at each."""
        open_ = set(ids)
        give_up = time.monotonic() + seconds
        while open_ and time.monotonic() < give_up:
            open_ -= {i for i in open_ if self.look(i)}
            time.sleep(0.05)
        for request_id in ids:
            self.look(request_id)

    def failures(self) -> list[Any]:
        """Results that were seen and that are no success."""
        seen = [line for line in read(self.record.path) if line["op"] == "seen" and line["result"]]
        return [line for line in seen if not line["result"]["ok"]]

    def verdict(self, box: Sandbox) -> list[str]:
        lines = read(self.record.path)
        lines += [{"op": "ran", **json.loads(text)} for text in box.calls.read_text().splitlines()]
        return violations(lines)
