"""Callers that never stop: what a change of the world must not be noticed by."""

from __future__ import annotations

import threading
import time
from collections import Counter

import urllib3

from tests.faults.sandbox import Sandbox, client_environ

ENOUGH = 100
"""Failures after which callers give up: the test has failed, and might never come to stop them."""


class Load:
    """Callers that call as fast as they get answers, direct and through the queue, and count what they get."""

    def __init__(self, box: Sandbox, callers: int, endpoint: str = "acme/one") -> None:
        values = client_environ(box)
        self.run = f"https://{values['FAL_RUN_HOST']}/{endpoint}"
        self.queue = f"https://{values['FAL_QUEUE_RUN_HOST']}/{endpoint}"
        self.pool = urllib3.PoolManager(
            ca_certs=values["SSL_CERT_FILE"],
            headers={"authorization": f"Key {values['FAL_KEY']}"},
            retries=False,
            maxsize=callers,
        )
        self.versions: Counter[int] = Counter()
        self.failures: list[str] = []
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(i,), daemon=True) for i in range(callers)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, version: int) -> None:
        give_up = time.monotonic() + 30
        while not self.versions[version] and time.monotonic() < give_up:
            time.sleep(0.02)

    def _call(self, number: int) -> None:
        while not self.ending.is_set() and len(self.failures) < ENOUGH:
            try:
                answer = self._direct(number) if number % 2 else self._queued(number)
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.data[:200]!r} {dict(answer.headers)}")
                else:
                    self.versions[answer.json()["version"]] += 1
            except urllib3.exceptions.HTTPError as exc:
                self.failures.append(repr(exc))

    def _direct(self, number: int) -> urllib3.BaseHTTPResponse:
        return self.pool.request("POST", self.run, json={"n": number, "sleep": _work(number)}, timeout=60)

    def _queued(self, number: int) -> urllib3.BaseHTTPResponse:
        submitted = self.pool.request("POST", self.queue, json={"n": number, "sleep": _work(number)}, timeout=60)
        if submitted.status >= 400:
            return submitted
        urls = submitted.json()
        while self.pool.request("GET", urls["status_url"], timeout=60).json()["status"] != "COMPLETED":
            time.sleep(0.02)
        return self.pool.request("GET", urls["response_url"], timeout=60)


def _work(number: int) -> float:
    """Most requests are short; every fifth caller's outlast the time in which a runner could be stopped unnoticed."""
    return 0.5 if number % 5 == 0 else 0.02
