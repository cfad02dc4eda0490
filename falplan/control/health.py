"""Asks runners whether they are well. Knows no rollouts; tells why a check failed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import aiohttp

from falplan import clock
from falplan.core.definition import Definition
from falplan.core.runtime import RunnerAccess
from falplan.core.spec.resolved import AppKind
from falplan.core.values import Json
from falplan.sdk.ways import connector_to, why_not_let_in

INTERVAL = 15.0  # seconds between regular checks, as fal does
KNOCKS = 4.0  # seconds for one connection to a runner that is reached without SSH
LET_IN = (
    30.0  # seconds within which such a runner must be reached once it is ready: a firewall opens for nobody who waits
)


@dataclass(frozen=True, slots=True)
class Check:
    """How one app is checked. Times in seconds."""

    path: str
    method: str = "GET"
    timeout: float = 5
    failure_threshold: int = 3
    regularly: bool = False


def check_of(definition: Definition) -> Check | None:
    """The app's check: its own, `GET /health` of a fal.App, None for a command that names none."""
    own = cast("Mapping[str, Json] | None", definition.setting("health_check"))
    if own:
        return Check(
            str(own["path"]),
            str(own.get("method") or ("POST" if definition.kind == AppKind.FAL else "GET")),
            float(cast("float", own.get("timeout_seconds") or 5)),
            int(cast("int", own.get("failure_threshold") or 3)),
            bool(own.get("call_regularly", True)),
        )
    return Check("/health") if definition.kind == AppKind.FAL else None


@dataclass(slots=True)
class HealthChecks:
    """Checks by whatever way leads to a runner. Remembers failures in a row and when each runner is due."""

    _due: dict[str, float] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)

    async def until_healthy(
        self, address: str, definition: Definition, access: RunnerAccess | None = None
    ) -> str | None:
        """Check until it succeeds; why it is given up once startup_timeout is over, or there is no way to it. None: healthy."""
        if access is not None and (failure := await _until_let_in(address, access)):
            return f"no way to it within {LET_IN:g} s: {failure}. `falplan host check` looks for what is in the way"
        check = check_of(definition)
        if check is None:
            return None
        give_up = clock.monotonic() + definition.seconds("startup_timeout")
        pause = 0.02
        while failure := await ask(address, check, access):
            if clock.monotonic() > give_up:
                return f"not healthy within startup_timeout: {failure}"
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)
        return None

    def is_due(self, runner_id: str, definition: Definition, *, now: float) -> bool:
        """Whether a regular check should be made now; the first one is due an interval after the runner got ready."""
        check = check_of(definition)
        if check is None or not check.regularly:
            return False
        return now >= self._due.setdefault(runner_id, now + INTERVAL)

    async def regular(
        self, runner_id: str, address: str, definition: Definition, access: RunnerAccess | None = None
    ) -> str | None:
        """One check; the failure once there were failure_threshold in a row."""
        check = check_of(definition)
        if check is None:
            return None
        failure = await ask(address, check, access)
        self._due[runner_id] = clock.monotonic() + INTERVAL
        count = self._failures[runner_id] = self._failures.get(runner_id, 0) + 1 if failure else 0
        return f"{failure}, {count} times in a row" if failure and count >= check.failure_threshold else None

    async def once(self, address: str, definition: Definition, access: RunnerAccess | None = None) -> str | None:
        """One check that counts for nothing; None: it is well, or nothing says how to ask."""
        check = check_of(definition)
        if check is None:
            return None if access is None else await knocked(address, access)
        return await ask(address, check, access)

    def forget(self, runner_id: str) -> None:
        """The runner is gone."""
        self._due.pop(runner_id, None)
        self._failures.pop(runner_id, None)


async def _until_let_in(address: str, access: RunnerAccess) -> str | None:
    """Connect until it succeeds; why not after LET_IN."""
    give_up, pause = clock.monotonic() + LET_IN, 0.02
    while failure := await knocked(address, access):
        if clock.monotonic() > give_up:
            return failure
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)
    return None


async def knocked(address: str, access: RunnerAccess) -> str | None:
    """Why the runner at `tls:HOST:PORT` can't be connected to; None if its app took a connection."""
    host, _, port = address.partition(":")[2].rpartition(":")
    return await why_not_let_in(host, int(port), access, patience=KNOCKS)


async def ask(address: str, check: Check, access: RunnerAccess | None = None) -> str | None:
    """One check: None if the answer's status is below 400, else what is wrong."""
    kind, _, where = address.partition(":")
    connector = connector_to(address, access, keep_alive=1.0, patience=min(KNOCKS, check.timeout * 0.8))
    url = f"http://{where if kind == 'tcp' else 'runner'}{check.path}"
    timeout = aiohttp.ClientTimeout(total=check.timeout)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(check.method, url, allow_redirects=False) as response,
        ):
            return None if response.status < 400 else f"{check.method} {check.path} answered {response.status}"
    except TimeoutError:
        return f"{check.method} {check.path} did not answer within {check.timeout:g} s"
    except (aiohttp.ClientError, OSError) as exc:
        return f"{check.method} {check.path}: {exc}"
