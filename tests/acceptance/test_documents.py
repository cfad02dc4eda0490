"""README and tutorial do what they say: each block is run, in order, and what it prints is compared with what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.acceptance.pages import Step, edited, is_shaped_like, shape, steps
from tests.faults.sandbox import Sandbox

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("documents")


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    """A copy of the checkout and a fresh virtual environment, both gone afterwards."""
    box = Sandbox()
    try:
        yield Room(box, copy_of_the_checkout(box.folder / "falplan"), fresh_environment(box.folder / "venv"))
    finally:
        box.clean()


@dataclass
class Room:
    """Where pages are run: as somebody with a fresh checkout and an empty virtual environment would."""

    box: Sandbox
    checkout: Path
    venv: Path

    def environ(self) -> dict[str, str]:
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        values = self.box.environ(PATH=path, VIRTUAL_ENV=str(self.venv), TERM="dumb", PYTHON=sys.executable)
        outer = (
            "MAKE",
            "MFLAGS",
            "VENV",
            "COVERAGE",
            "PYTHONPATH",
            "PYTEST",
        )  # these tests may be run by `make test` themselves
        return {k: v for k, v in values.items() if not k.startswith(outer)}


@dataclass
class Reader:
    """Somebody who follows a page to the letter, and remembers the folder that they are in."""

    room: Room
    folder: Path

    def follow(self, step: Step) -> None:
        """Do what a block says, and compare."""
        verb, _, name = step.block.mark.partition(" ")
        if step.block.language == "sh":
            self.run(step)
        elif verb == "write":
            (self.folder / name).write_text(step.block.text)
        elif verb == "append":
            with (self.folder / name).open("a") as file:
                file.write("\n" + step.block.text)
        elif verb == "edit":
            (self.folder / name).write_text(edited((self.folder / name).read_text(), step.block.text))
        elif verb == "in":
            assert step.block.text in (self.folder / name).read_text(), f"line {step.block.line}: not in {name}"

    def run(self, step: Step) -> None:
        """Run a block; one that is marked `until` again and again until it prints what is shown, for half a minute at most."""
        give_up = time.monotonic() + (30 if step.block.mark == "until" else 0)
        while True:
            code, output = self.shell(step.block.text)
            ended_well = code == step.exit_code and (step.shown is None or is_shaped_like(output, step.shown))
            if ended_well or time.monotonic() > give_up:
                break
            time.sleep(0.2)
        where = f"line {step.block.line}: {step.block.text}"
        assert code == step.exit_code, f"{where}\nexited {code}\n{output}\n{self.room.box.serve_log()}"
        assert ended_well, (
            f"{where}\n--- shown\n{chr(10).join(shape(step.shown or ''))}\n--- printed\n{chr(10).join(shape(output))}"
        )

    def shell(self, text: str) -> tuple[int, str]:
        """Run commands as typed, stopping at the first that fails. The same wheel is installed, by uv, which is faster than pip."""
        text = re.sub(r"^pip install", f"{find_uv_bin()} pip install -q", text, flags=re.MULTILINE)
        here = self.room.box.folder / "here"
        done = subprocess.run(
            ["bash", "-c", f"set -eu; trap 'pwd > {here}' EXIT\n{text}"],
            cwd=self.folder,
            env=self.room.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
        )
        self.folder = Path(here.read_text().strip())
        return done.returncode, done.stdout


def copy_of_the_checkout(target: Path) -> Path:
    """What a clone would hold, with what is new in the working tree."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def fresh_environment(target: Path) -> Path:
    """An empty virtual environment."""
    subprocess.run([find_uv_bin(), "venv", "-q", "--python", sys.executable, str(target)], check=True, timeout=60)
    return target


@pytest.mark.timeout(400)
def test_the_tutorial_does_what_it_says(room: Room) -> None:
    reader = Reader(room, room.checkout)
    for step in steps((ROOT / "docs" / "tutorial.md").read_text()):
        reader.follow(step)

    room.box.check_nothing_left()


@pytest.mark.timeout(400)
def test_the_readme_does_what_it_says(room: Room) -> None:
    commands = [s for s in steps((ROOT / "README.md").read_text()) if s.block.language == "sh"]
    make_test = [s for s in commands if s.block.text == "make test\n"]  # it would run itself
    for step in commands:
        if step not in make_test:
            Reader(room, room.checkout).run(step)

    assert len(make_test) == 1
    assert re.search(r"^test:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    room.box.check_nothing_left()


def test_the_readme_shows_a_spec_that_is_valid_and_a_real_plan(tmp_path: Path) -> None:
    page = steps((ROOT / "README.md").read_text())
    (spec,) = [s.block.text for s in page if s.block.language == "yaml"]
    (tmp_path / "falplan.yaml").write_text(spec)
    shutil.copy(ROOT / "examples" / "hello" / "app.py", tmp_path)
    command = [sys.executable, "-m", "falplan", "-C", str(tmp_path), "validate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert any("makes a new revision" in s.block.text for s in page if s.block.language == "text")
    assert not any("@@" in s.block.text for s in page)


def test_output_is_compared_line_by_line_with_gaps_only_where_they_are_shown() -> None:
    assert is_shaped_like("a after 1.2s\nb\nc\n", "a after 3.4s\n…\nc\n")
    assert is_shaped_like("a  b  r-0123456789ab\n", "a b r-ba9876543210\n")
    assert not is_shaped_like("a\nb\nc\n", "a\nc\n")
    assert not is_shaped_like("a\n", "b\n")
    assert not is_shaped_like("x = 2 -> 3\n", "x = 2 -> 4\n")
