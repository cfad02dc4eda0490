"""What is held against a plan: by what is gone or missing, protection, budgets, checks and policies. Carries no judgement of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from falplan.core.errors import Position
from falplan.core.plural import count
from falplan.core.report import Row, Section, Tone
from falplan.core.values import JsonObject


class Source(StrEnum):
    """What objects."""

    LOSS = "loss"
    GATEWAY = "gateway"
    INTERPRETER = "interpreter"
    ENGINE = "engine"
    PROTECTION = "protection"
    BUDGET = "budget"
    CHECK = "check"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Finding:
    """One objection. `refuses`: apply must not go on; otherwise it is a warning.

    `message` is one line; `detail` says more, a line each: what is allowed, and the way out. `name` is the check's, policy's or budget's
    own, `address` the resource that it is about, `position` the place in the spec that makes it so.
    """

    source: Source
    name: str
    message: str
    refuses: bool
    address: str = ""
    position: Position | None = None
    detail: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The message with its place."""
        return f"{self.position}: {self.message}" if self.position else self.message


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that refuse first; then by what objects, its name, and the resource."""
    sources = list(Source)
    return tuple(sorted(findings, key=lambda f: (not f.refuses, sources.index(f.source), f.name, f.address, f.message)))


def findings_section(findings: Iterable[Finding]) -> Section:
    """All of them, for people and as JSON."""
    found = in_order(findings)
    rows = tuple(
        Row(f"{'Refused' if f.refuses else 'Warning'}: {f.line}", Tone.ERROR if f.refuses else Tone.WARNING, f.detail)
        for f in found
    )
    return Section("findings", "What is held against this plan", rows, {"list": [finding_to_json(f) for f in found]})


def finding_to_json(finding: Finding) -> JsonObject:
    """A finding as it stands in the plan's JSON."""
    body: JsonObject = {
        "source": finding.source.value,
        "name": finding.name,
        "refuses": finding.refuses,
        "message": finding.message,
        "detail": list(finding.detail),
    }
    if finding.address:
        body["address"] = finding.address
    if finding.position:
        place = finding.position
        body["position"] = {"file": place.file, "line": place.line, "column": place.column}
    return body


def refusal_text(findings: Iterable[Finding]) -> tuple[str, str]:
    """(summary, detail) of the error that those which refuse make together."""
    refusing = [f for f in in_order(findings) if f.refuses]
    lines = [line for f in refusing for line in (f.line, *(f"  {more}" for more in f.detail))]
    kinds = [(s, sum(f.source is s for f in refusing)) for s in Source]
    named = [PLURALS[s][n > 1].format(n) for s, n in kinds if n]
    return f"Refused by {_joined(named)}", "\n".join([*lines, "Nothing was changed."])


PLURALS = {
    Source.LOSS: ("a loss that nobody has accepted", "{} losses that nobody has accepted"),
    Source.GATEWAY: ("what the gateway needs", "what the gateway needs"),
    Source.INTERPRETER: ("a Python that is missing", "Pythons that are missing for {} apps"),
    Source.ENGINE: ("a container engine that is missing", "container engines that are missing for {} apps"),
    Source.PROTECTION: ("the protection of a resource", "the protection of {} resources"),
    Source.BUDGET: ("a budget", "{} budgets"),
    Source.CHECK: ("a check", "{} checks"),
    Source.POLICY: ("a policy", "{} findings of policies"),
}


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(findings: Iterable[Finding]) -> str:
    """`1 refusal, 2 warnings`, for summaries; empty if there are none."""
    found = list(findings)
    refusing = sum(f.refuses for f in found)
    parts = [count(n, word) for n, word in ((refusing, "refusal"), (len(found) - refusing, "warning")) if n]
    return ", ".join(parts)
