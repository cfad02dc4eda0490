"""A journal of launches in memory, for tests of what buys machines. It outlives whatever used it, as a durable one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from falplan.sdk.launches import Attempt, Verdict


@dataclass(slots=True)
class MemoryJournal:
    """Attempts as they were written last. `history` has every write; `before` and `after` are called around each of them."""

    history: list[Attempt] = field(default_factory=list)
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    _kept: dict[tuple[str, int], Attempt] = field(default_factory=dict)

    def attempts(self, launch: str) -> Sequence[Attempt]:
        return [self._kept[key] for key in sorted(self._kept) if key[0] == launch]

    def since(self, seconds: float) -> Sequence[Attempt]:
        return [a for a in self._kept.values() if a.told_at >= seconds and a.verdict is not Verdict.UNKNOWN]

    def write(self, attempt: Attempt) -> None:
        self.before()
        self._kept[attempt.launch, attempt.number] = attempt
        self.history.append(attempt)
        self.after()
