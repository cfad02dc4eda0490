"""One machine is launched: each attempt is written down, sent, and sent again as it stands until it is known what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.sdk.launches import Attempt, Bought, Clock, Intent, Journal, NoCapacity, Stage, Verdict
from falplan.sdk.resources import Failed
from falplan.sdk.shell import Unreachable

from .account import Account, Refusal, denied
from .answers import judge
from .machines import bought, owned
from .pools import ALWAYS, Exhausted, Follow, Resolve, Stop, Try, Way, next_move
from .tags import OPERATION
from .words import why

GRACE = 300.0
"""Seconds for which EC2 may not show what it has made: https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html"""
TOKEN_LIFE = 72_000.0
"""Seconds for which a request may be sent again by its client token; EC2 says no figure, and is known to keep them for a day."""


@dataclass(slots=True)
class Launch:
    """One intent's machine. `request` makes what is sent to a pool, `vcpus` tells what a type has.

    `patience` is the seconds for which an unanswered request is sent again before the caller is told that nobody knows.
    """

    account: Account
    intent: Intent
    journal: Journal
    ways: Sequence[Way]
    request: Callable[[Way, int], JsonObject]
    vcpus: Callable[[str], int]
    clock: Clock
    region: str
    patience: float = 60.0
    told: set[int] = field(default_factory=set)  #: numbers of the attempts that were answered by now

    def run(self) -> Bought:
        """See `Elastic.buy`."""
        began = self.clock.now()
        while True:
            tried = self.journal.attempts(self.intent.operation)
            now = self.clock.now()
            move = next_move(self.ways, tried, self.journal.since(now - ALWAYS), now=now, told=self.told)
            match move:
                case Resolve(attempt):
                    self._resolve(attempt, began)
                case Follow(attempt):
                    found = self._follow(attempt)
                    if found is not None:
                        return found
                case Try(way, number):
                    made = self._try(way, number, began)
                    if made is not None:
                        return made
                case Stop(attempt):
                    self._stop(attempt)
                case Exhausted():
                    raise self._exhausted(move, now)

    # -- asking -----------------------------------------------------------------------------------------------------------

    def _try(self, way: Way, number: int, began: float) -> Bought | None:
        """A new attempt, durable before it is sent."""
        attempt = Attempt(self.intent.operation, number, way.pool, self.request(way, number), self.clock.now())
        self.journal.write(attempt)
        fp("aws.launch.after_intent")
        return self._send(attempt, began, again=False)

    def _resolve(self, attempt: Attempt, began: float) -> Bought | None:
        """Find out what became of an attempt: by its token and tags, then by sending it again."""
        seen = self._seen(attempt)
        if seen is not None:
            self._made(attempt, seen)
            return seen
        if self.clock.now() - attempt.at > TOKEN_LIFE:
            self._told(attempt, Verdict.NOTHING, "it was never seen, and its token has expired")
            return None
        return self._send(attempt, began, again=True)

    def _send(self, attempt: Attempt, began: float, *, again: bool) -> Bought | None:
        """Send a request until its answer says something; None if it made nothing. `again`: it was sent before."""
        wait = 1.0
        while True:
            answer = self._ask(attempt)
            fp("aws.launch.after_call")
            if not isinstance(answer, Refusal):
                made = bought(answer)
                self._made(attempt, made)
                return made
            verdict = judge(answer.code, answer.status, again=again)
            if verdict is not Verdict.UNKNOWN:
                self._told(attempt, verdict, answer.text)
                return None
            again = True
            lasting = judge(answer.code, answer.status, again=False)
            if lasting is not Verdict.UNKNOWN or self.clock.now() - began + wait > self.patience:
                return self._doubt(attempt, answer, lasting)
            self.clock.pause(self.clock.spread(wait / 2, wait))
            wait = min(20.0, wait * 2)

    def _ask(self, attempt: Attempt) -> dict[str, Any] | Refusal:
        try:
            return self.account.launch(attempt.request)
        except Unreachable as exc:
            return Refusal("", exc.detail, 0)

    def _doubt(self, attempt: Attempt, answer: Refusal, lasting: Verdict) -> Bought | None:
        """Nobody knows what became of a request; `lasting` is what its last answer would say of a first one.

        What is refused now, and was not seen for as long as EC2 may hide it, was never made.

        Raises:
            Denied, Unreachable: that is not known yet.
        """
        if lasting is not Verdict.UNKNOWN and self.clock.now() - attempt.at > GRACE and self._seen(attempt) is None:
            self._told(attempt, lasting, answer.text)
            return None
        if lasting is Verdict.PERMISSION:
            raise denied(self.account.access, answer)
        text = (
            f"{self.region}: {attempt.pool} was asked for a machine, and what came back is: {answer.text}. "
            "The same request is sent again until it is known, which makes no second machine."
        )
        raise Unreachable("Whether a machine was launched is not known yet", text)

    # -- what became of it ------------------------------------------------------------------------------------------------

    def _seen(self, attempt: Attempt) -> Bought | None:
        """The instance of an attempt, if EC2 shows it."""
        token = str(attempt.request["ClientToken"])
        found = owned(self.account, self.intent.owner, {f"tag:{OPERATION}": attempt.launch})
        mine = [i for i in found if i.get("ClientToken", token) == token]
        return bought(mine[0]) if mine else None

    def _follow(self, attempt: Attempt) -> Bought | None:
        """The machine that was made; None if it ended for lack of room, so that the next pool is asked."""
        seen = self._seen(attempt)
        if seen is None:
            if attempt.verdict is Verdict.ENDED:
                raise _over(attempt, attempt.because)
            if self.clock.now() - attempt.told_at > GRACE:
                gone = replace(attempt, because="EC2 does not show it any more")
                self._told(gone, Verdict.ENDED, gone.because)
                raise _over(attempt, gone.because)
            return Bought(
                attempt.identity,
                self.intent.operation,
                self.intent.control_plane,
                attempt.pool,
                Stage.STARTING,
                attempt.told_at,
            )
        if seen.stage in (Stage.STARTING, Stage.UP):
            return seen
        if seen.out_of_capacity:
            self._told(replace(attempt, identity=seen.identity), Verdict.CAPACITY, seen.because)
            return None
        self._told(replace(attempt, identity=seen.identity), Verdict.ENDED, seen.because)
        raise _over(attempt, seen.because)

    def _made(self, attempt: Attempt, made: Bought) -> None:
        self._told(replace(attempt, identity=made.identity), Verdict.MADE, "")

    def _told(self, attempt: Attempt, verdict: Verdict, because: str) -> None:
        self.journal.write(replace(attempt, verdict=verdict, because=because, told_at=self.clock.now()))
        self.told.add(attempt.number)
        fp("aws.launch.after_verdict")

    # -- no machine -------------------------------------------------------------------------------------------------------

    def _stop(self, attempt: Attempt) -> None:
        """Raises: Denied, Failed."""
        code, _, words = attempt.because.partition(": ")
        if attempt.verdict is Verdict.PERMISSION:
            raise denied(self.account.access, Refusal(code, words, 403))
        text = f"{self.region}: {attempt.pool} was not asked further, nor was any other pool: {attempt.because}"
        raise Failed("EC2 refuses the request for a machine", text)

    def _exhausted(self, move: Exhausted, now: float) -> NoCapacity:
        if not move.pauses:
            text = f"{self.region}: none of the zones with a subnet offers any of the instance types that would do."
            return NoCapacity("There is no machine to be had", text, again_at=now + ALWAYS)
        place = self.account.access.region
        lines = [
            why(way.pool, pause.verdict, now - pause.at, pause.because, place, self.vcpus) for way, pause in move.pauses
        ]
        text = "\n".join(dict.fromkeys(lines))
        return NoCapacity("There is no machine to be had now", text, again_at=move.again_at)


def _over(attempt: Attempt, because: str) -> Failed:
    return Failed("The machine has ended", f"{attempt.identity or 'It'} ({attempt.pool}): {because}")


__all__ = ["Clock", "Launch"]
