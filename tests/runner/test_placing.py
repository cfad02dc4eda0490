"""Putting things in place, and taking them away."""

from __future__ import annotations

import threading
from pathlib import Path

from falplan.runner import placing


def test_a_folder_that_several_remove_at_once_is_gone_and_nobody_complains(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def remove(path: str, turn: threading.Barrier) -> None:
        turn.wait()
        try:
            placing.remove_tree(path)
        except BaseException as exc:
            failures.append(exc)

    for number in range(20):
        folder = tmp_path / str(number)
        for part in range(20):
            (folder / str(part) / "below").mkdir(parents=True)
            (folder / str(part) / "below" / "file").touch(mode=0o444)
        turn = threading.Barrier(4)
        threads = [threading.Thread(target=remove, args=(str(folder), turn)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not folder.exists()

    assert failures == []


def test_taking_lines_away_makes_nothing(tmp_path: Path) -> None:
    """Seen red with a folder that was made for a file that was not there."""
    placing.edit_lines(str(tmp_path / "missing" / "keys"), " mine", None)
    assert list(tmp_path.iterdir()) == []
