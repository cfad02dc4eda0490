"""A fal.App with an endpoint of each kind. Its requirement, sibling package and app_files are all used in setup()."""

import asyncio
import os
import time
from pathlib import Path

import fal
import six
from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from words import greet


class Input(BaseModel):
    name: str
    wait: float = 0.0


class Output(BaseModel):
    message: str
    prompt: str
    six: str


class Deployed(fal.App):
    requirements = ["six"]
    app_files = ["assets"]

    def setup(self) -> None:
        self.prompt = Path("assets/prompt.txt").read_text().strip()
        self.stops: dict[str, asyncio.Event] = {}
        trace("setup")

    def teardown(self) -> None:
        trace("teardown")

    def handle_exit(self) -> None:
        trace("handle_exit")

    @fal.endpoint("/")
    def run(self, request: Input) -> Output:
        print(f"begin {request.name}")
        time.sleep(request.wait)
        print(f"end {request.name}")
        return Output(message=greet(request.name), prompt=self.prompt, six=six.__name__)

    @fal.endpoint("/slow")
    async def slow(self, request: Input, http: Request) -> Output:
        stop = self.stops.setdefault(http.headers["x-fal-request-id"], asyncio.Event())
        try:
            await asyncio.wait_for(stop.wait(), request.wait)
        except TimeoutError:
            pass
        return Output(message=greet(request.name), prompt="", six="")

    @fal.endpoint("/slow/cancel")
    async def cancel(self, http: Request) -> dict[str, str]:
        """fal calls this when a caller cancels a request that /slow works on."""
        request_id = http.headers["x-fal-request-id"]
        trace("cancel")
        self.stops.setdefault(request_id, asyncio.Event()).set()  # it may come before the request itself
        return {"cancelled": request_id}

    @fal.endpoint("/raise")
    def fail(self, request: Input) -> Output:
        raise ValueError(f"no {request.name}")

    @fal.endpoint("/teapot")
    def refuse(self, request: Input) -> Output:
        raise HTTPException(status_code=418, detail=f"{request.name} wants coffee")

    @fal.endpoint("/stream")
    def stream(self, request: Input) -> StreamingResponse:
        def events():
            for letter in request.name:
                yield f'data: {{"letter": "{letter}"}}\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")


def trace(what: str) -> None:
    """Print and remember: the file outlives the runner."""
    print(f"{what} runs")
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(f"{what}\n")
