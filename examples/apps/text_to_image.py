"""A fal.App: the spec's settings win over the class's."""

import fal
from pydantic import BaseModel


class Input(BaseModel):
    prompt: str


class Output(BaseModel):
    text: str


class TextToImage(fal.App, keep_alive=60):
    machine_type = "GPU-A100"

    def setup(self) -> None:
        print("loading")

    @fal.endpoint("/")
    def generate(self, request: Input) -> Output:
        print(f"painting {request.prompt}")
        return Output(text=f"a picture of {request.prompt}")
