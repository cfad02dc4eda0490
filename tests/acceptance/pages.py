"""Pages of documentation as something that can be run: their blocks in order, and the shape of output. Runs nothing itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

VARYING = [
    (r"\S+/work/app\.py", "<file>"),
    (r"\S+ \(XS\)", "<machine> (XS)"),
    (r"r-[0-9a-f]{12}", "<revision>"),
    (r"runner-[0-9a-f]{12}", "<runner>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
    (r"\b[0-9a-f]{12}\b", "<digest>"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>"),
    (r"127\.0\.0\.1:\d+", "<gateway>"),
    (r"after \d+\.\d+ ?s\b", "after <seconds>"),
    (r"\b\d+s\b", "<age>"),
    (r"\d+ x ", "<count> x "),
    (r"(locking|locked|Resolved|Installed) \d+", r"\1 <count>"),
]
"""What differs from machine to machine and run to run -> what stands for it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `mark` is the comment in the line before it: what a test is to do with it."""

    language: str
    text: str
    mark: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A block and the output that the page shows below it, if it shows one."""

    block: Block
    shown: str | None = None

    @property
    def exit_code(self) -> int:
        """How the block's commands end."""
        return int(self.block.mark.removeprefix("exits ")) if self.block.mark.startswith("exits ") else 0


def steps(page: str) -> list[Step]:
    """The page's blocks in order; a `text` block belongs to the `sh` block before it."""
    found: list[Step] = []
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        block = Block(match["language"], match["text"], match["mark"] or "", line)
        if block.language == "text" and found and found[-1].block.language == "sh" and found[-1].shown is None:
            found[-1] = Step(found[-1].block, block.text)
        else:
            found.append(Step(block))
    return found


STILL = re.compile(r": Still \w+\.\.\. \[")
"""What a command says every ten seconds, on a machine that is slow today."""


def shape(text: str) -> list[str]:
    """Lines without what varies: ids, times, ports, the machine's name, the width of columns, how often something still goes on."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    lines = [" ".join(line.split()) for line in text.strip("\n").splitlines()]
    return [line for line in lines if not STILL.search(line)]


def is_shaped_like(actual: str, shown: str) -> bool:
    """Whether output looks as the page shows it. A line `…` stands for any lines, `…` within a line for any text."""
    patterns = []
    for line in shape(shown):
        if line == "…":
            patterns.append(r"(?:.*\n)*?")
        else:
            patterns.append(".*".join(re.escape(part) for part in line.split("…")) + r"\n")
    lines = "".join(line + "\n" for line in shape(actual))
    return re.fullmatch("".join(patterns), lines) is not None


def edited(text: str, diff: str) -> str:
    """The text with the diff's `-` lines replaced by its `+` lines.

    Raises:
        ValueError: the text does not hold the `-` lines once.
    """
    before = "".join(line[1:] + "\n" for line in diff.splitlines() if line.startswith("-"))
    after = "".join(line[1:] + "\n" for line in diff.splitlines() if line.startswith("+"))
    if text.count(before) != 1:
        raise ValueError(f"not found once:\n{before}\nin:\n{text}")
    return text.replace(before, after)
