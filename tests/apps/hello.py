"""A small app with an endpoint of each kind."""

import asyncio
import os
import time

import fal
from fastapi.responses import StreamingResponse
from greeting import greet
from pydantic import BaseModel


class Input(BaseModel):
    name: str
    wait: float = 0.0


class Output(BaseModel):
    message: str
    pid: int


class Hello(fal.App):
    machine_type = "XS"

    def setup(self) -> None:
        print("setup runs")
        self.began = time.monotonic()

    def teardown(self) -> None:
        print("teardown runs")

    def handle_exit(self) -> None:
        print("handle_exit runs")

    @fal.endpoint("/")
    def run(self, request: Input) -> Output:
        print(f"sync for {request.name}")
        time.sleep(request.wait)
        return Output(message=greet(request.name), pid=os.getpid())

    @fal.endpoint("/async")
    async def run_async(self, request: Input) -> Output:
        print(f"async for {request.name}")
        await asyncio.sleep(request.wait)
        print(f"async done for {request.name}")
        return Output(message=greet(request.name), pid=os.getpid())

    @fal.endpoint("/fail")
    def fail(self, request: Input) -> Output:
        raise ValueError(f"no {request.name}")

    @fal.endpoint("/stream")
    def stream(self) -> StreamingResponse:
        def events():
            for i in range(3):
                print(f"event {i}")
                yield f'data: {{"i": {i}}}\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")
