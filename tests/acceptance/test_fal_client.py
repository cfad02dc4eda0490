"""The unmodified fal_client against the gateway, over TLS, in a process of its own: sync and async."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.plane import a_runner
from tests.gateway.test_survival import Program, a_gateway

PROGRAM = Path(__file__).with_name("fal_client_program.py")
BOTH = pytest.mark.parametrize("prefix", ["", "async_"])


async def client(gateway: Program, scenario: str, *, within: float = 60) -> dict[str, Any]:
    """What a scenario of the client program saw. The process must end by itself."""
    host = f"127.0.0.1:{gateway.port}"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FAL_", "SSL_"))} | {
        "FAL_KEY": gateway.key,
        "FAL_RUN_HOST": f"{host}/run",
        "FAL_QUEUE_RUN_HOST": f"{host}/queue",
        "SSL_CERT_FILE": str(gateway.folder / "tls" / "ca-bundle.pem"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), scenario, stdout=asyncio.subprocess.PIPE, env=environ
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), within)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return dict(json.loads(out))


@BOTH
async def test_every_call_works(tmp_path: Path, prefix: str) -> None:
    async with a_runner(tmp_path) as runner, a_gateway(tmp_path, runner) as gateway:
        seen = await client(gateway, prefix + "everything")

    assert json.loads(seen["run"]["body"]) == {"x": 1}
    assert (seen["run"]["path"], seen["run"]["headers"]["x-fal-runner-hint"]) == ("/sub", "h")
    assert (seen["get"]["method"], seen["get"]["path"]) == ("GET", "/health")
    assert seen["events"][-1] == ["Completed", 1]
    assert seen["result"] == seen["by_id"]
    assert json.loads(seen["result"]["body"]) == {"x": 2}
    assert seen["status"]["class"] == "Completed"
    assert seen["status"]["logs"][0]["message"].startswith("runner-1 works on ")
    assert seen["status"]["metrics"]["inference_time"] > 0
    assert json.loads(seen["subscribe"]["body"]) == {"x": 3}
    assert seen["updates"][-1] == "Completed"
    assert seen["stream"] == [{"n": 0}, {"n": 1}, {"n": 2}]


@BOTH
async def test_errors_arrive_as_fals(tmp_path: Path, prefix: str) -> None:
    async with a_runner(tmp_path) as runner, a_gateway(tmp_path, runner) as gateway:
        seen = await client(gateway, prefix + "errors")

    codes = {name: error.get("status") for name, error in seen.items()}
    assert codes == {
        "422": 422,
        "500": 500,
        "queued 422": 422,
        "unknown app": 404,
        "unknown request": 404,
        "unknown result": 404,
        "cancel unknown": 404,
        "wrong key": 401,
        "queue wrong key": 401,
        "odd key": 401,
        "queue odd key": 401,
    }
    assert seen["422"]["message"] == "as asked"
    assert seen["wrong key"]["type"] == "unauthorized"


@BOTH
async def test_cancelled_requests_end(tmp_path: Path, prefix: str) -> None:
    """Seen red with a cancel that left a running request IN_PROGRESS: the client waited for ever."""
    async with a_runner(tmp_path) as runner, a_gateway(tmp_path, runner, slots=1) as gateway:
        seen = await client(gateway, prefix + "cancels")

    assert seen["queued"] == seen["running"] == "Completed"
    for name in ("queued result", "running result"):
        assert (seen[name]["status"], seen[name]["type"]) == (499, "client_cancelled")
    assert seen["again"]["status"] == 400


@BOTH
@pytest.mark.parametrize("busy", [True, False])
async def test_a_client_that_times_out_ends(tmp_path: Path, prefix: str, busy: bool) -> None:
    """Seen red with a cancel that was never answered, and with one of which the runner was not told."""
    async with a_runner(tmp_path) as runner, a_gateway(tmp_path, *([runner] if busy else [])) as gateway:
        seen = await client(gateway, prefix + "times_out", within=20)
        cancelled = (await runner.seen())["cancelled"]

    assert seen["error"]["class"] in ("FalClientTimeoutError", "FalClientHTTPError")
    assert len(cancelled) == (1 if busy else 0)
