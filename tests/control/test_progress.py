"""Lines about starts under way reach whoever waits, whether he came before them or after."""

from __future__ import annotations

from falplan.control.progress import Progress


def test_whoever_comes_late_hears_what_was_told_already_and_each_line_once() -> None:
    progress, heard = Progress(), list[str]()
    progress.tell("r1", "bringing files")
    progress.listen("r1", heard.append)
    progress.listen("r1", heard.append)
    progress.tell("r1", "building")
    progress.tell("r2", "of another one")
    progress.forget("r1")
    progress.tell("r1", "after the end of its start")

    assert heard == ["bringing files", "building"]
