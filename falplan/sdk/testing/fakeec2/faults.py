"""How the fake answers badly: lost answers, errors, silence, throttling, expired credentials. Knows nothing of what a call does."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from falplan.sdk.testing.fakeec2.wire import Ec2Error


class Strike(StrEnum):
    """What happens to a call."""

    DROP = "drop"  #: the connection is reset, and nothing was done
    DONE_DROP = "done-drop"  #: it is done, and the connection is reset
    ERROR = "error"  #: nothing was done, and an error is answered
    DONE_ERROR = "done-error"  #: it is done, and an error is answered
    HANG = "hang"  #: it is done, and nothing is answered for as long as the client waits


@dataclass(slots=True)
class Fault:
    """A strike on calls whose action matches (`Describe*`), from the `nth` matching one on, `times` times (0: for ever).

    `code` and `status` are those of the error that is answered.
    """

    action: str
    strike: Strike
    nth: int = 1
    times: int = 1
    code: str = "InternalError"
    status: int = 500
    seen: int = 0

    def strikes(self, action: str) -> bool:
        """Count a call; whether it is struck."""
        if not fnmatchcase(action, self.action):
            return False
        self.seen += 1
        return self.seen >= self.nth and (not self.times or self.seen < self.nth + self.times)

    @property
    def error(self) -> Ec2Error:
        return Ec2Error(self.code, "An internal error has occurred", self.status)


@dataclass(slots=True)
class Bucket:
    """EC2's throttling of one kind of call: a token for each, `refill` new ones a second, at most `size` of them."""

    size: float
    refill: float
    left: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.size

    def take(self, now: float) -> bool:
        """Use a token; False if there is none."""
        self.left = min(self.size, self.left + (now - self.at) * self.refill)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


OWNER = "123456789012"
"""The number of the account."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A key that may call. `until` is when it expires, in the account's time; None: never. `denied` are patterns of actions that it may
    not call, `account` whose it is. `token` is what calls have to bring beside a key that lasts for a while; `user` and `arn` are who it
    is, a user if they are empty."""

    until: float | None = None
    denied: tuple[str, ...] = ()
    account: str = OWNER
    token: str = ""
    user: str = "AIDAFAKEFAKEFAKEFAKE0"
    arn: str = ""

    @property
    def principal(self) -> str:
        """The ARN of who it is."""
        return self.arn or f"arn:aws:iam::{self.account}:user/fake"

    def check(self, action: str, now: float) -> None:
        """Whether it may call. Anybody may ask who they are.

        Raises:
            Ec2Error: it has expired, or may not.
        """
        if self.until is not None and now >= self.until:
            raise Ec2Error("RequestExpired", "Request has expired.")
        if action != "GetCallerIdentity" and self.denies(action):
            raise Ec2Error("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)

    def denies(self, action: str) -> bool:
        """Whether it may not do this."""
        return any(fnmatchcase(action, pattern) for pattern in self.denied)


UNKNOWN_KEY = Ec2Error("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
THROTTLED = Ec2Error("RequestLimitExceeded", "Request limit exceeded.", 503)
