"""An app that can't be imported."""

import fal
import no_such_module_anywhere  # noqa: F401


class BrokenImport(fal.App):
    @fal.endpoint("/")
    def run(self) -> dict[str, str]:
        return {}
