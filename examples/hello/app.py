"""An unmodified fal.App: what runs here runs on fal.ai, too."""

import time
from collections.abc import Iterator

import fal
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field


class Input(BaseModel):
    name: str = Field(description="Whom to greet", min_length=1, max_length=100)


class Output(BaseModel):
    greeting: str
    calls: int


class Hello(fal.App):
    def setup(self) -> None:
        """Runs once in each runner, before its first request: load the model here."""
        self.calls = 0

    @fal.endpoint("/")
    def greet(self, request: Input) -> Output:
        self.calls += 1
        print(f"greeting {request.name}")
        return Output(greeting=f"Hello, {request.name}!", calls=self.calls)

    @fal.endpoint("/stream")
    def count(self, request: Input) -> StreamingResponse:
        def events() -> Iterator[str]:
            for letter in request.name:
                yield f'data: {{"letter": "{letter}"}}\n\n'
                time.sleep(0.05)

        return StreamingResponse(events(), media_type="text/event-stream")
