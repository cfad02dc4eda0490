"""An app whose setup fails."""

import fal


class BrokenSetup(fal.App):
    def setup(self) -> None:
        raise RuntimeError("the weights are missing")

    @fal.endpoint("/")
    def run(self) -> dict[str, str]:
        return {}
