"""A fake account, and launches in it: virtual time, credentials in the environment, and a group for machines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from falplan.core.values import JsonObject
from falplan.sdk.launches import Bought, Intent, Pool
from falplan.sdk.testing.fakeec2 import FakeEc2
from falplan.sdk.testing.journals import MemoryJournal
from falplan_providers.aws.account import Access, Account
from falplan_providers.aws.facts import gather
from falplan_providers.aws.launching import Clock, Launch
from falplan_providers.aws.pools import ON_DEMAND, SPOT, Way, in_order
from falplan_providers.aws.requests import Build, Image, run_instances

AMI = Image("ami-0aaaaaaaaaaaaaaa1", "/dev/sda1", 35)
OWNER = "11111111-2222-4333-8444-555555555555"


@functools.cache
def account_at(url: str) -> Account:
    """One for all tests of a server: its clients are slow to make."""
    return Account(Access("us-east-1", endpoints={"ec2": url, "ssm": url, "pricing": url}))


@dataclass
class Scene:
    """One project in a fake account. `kinds` are the types that it asks for, in order."""

    fake: FakeEc2
    kinds: Sequence[str] = ("p5.48xlarge",)
    owner: str = OWNER
    image: Image = AMI
    spot: bool = False
    journal: MemoryJournal = field(default_factory=MemoryJournal)

    def __post_init__(self) -> None:
        self.account = account_at(self.fake.url)

    @property
    def clock(self) -> Clock:
        account = self.fake.account
        return Clock(lambda: account.now, account.advance, lambda least, most: most)

    def ways(self) -> list[Way]:
        now = self.fake.account.now if self.spot else None
        facts = gather(self.account, self.kinds, vpc="", subnets=(), spot_at=now)
        prices = {t.name: t.price for t in self.fake.account.catalog.types}
        found = []
        for kind in self.kinds:
            for zone in sorted(facts.zones.get(kind, ())):
                subnet = facts.subnets[zone]
                found.append(Way(Pool(kind, zone, ON_DEMAND), subnet, prices[kind]))
                if self.spot and (kind, zone) in facts.spot:
                    found.append(Way(Pool(kind, zone, SPOT), subnet, facts.spot[kind, zone]))
        return in_order(found, self.kinds, spot_first=self.spot)

    def intent(self, operation: str) -> Intent:
        return Intent(operation, self.owner, "plane-1")

    def build(self) -> Build:
        return Build(self.image, ())

    def launch(self, operation: str, ways: Sequence[Way] | None = None) -> Launch:
        intent = self.intent(operation)

        def request(way: Way, number: int) -> JsonObject:
            return run_instances(self.build(), intent, way.pool, number, subnet=way.subnet, region="us-east")

        vcpus = {t.name: t.vcpu for t in self.fake.account.catalog.types}
        return Launch(
            self.account,
            intent,
            self.journal,
            self.ways() if ways is None else ways,
            request,
            lambda kind: vcpus[kind],
            self.clock,
            "us-east",
        )

    def buy(self, operation: str, ways: Sequence[Way] | None = None) -> Bought:
        return self.launch(operation, ways).run()


class Killed(BaseException):
    """The process that was launching is no more."""


@dataclass
class Deadline:
    """Raises `Killed` at the `at`-th of the moments that it is called at, once."""

    at: int
    passed: int = 0

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise Killed


def until_it_is_bought(buy: Callable[[], Bought], times: int, *, after_each: Callable[[], object]) -> Bought:
    """What a controller does: ask again, until it is known."""
    from falplan.core.errors import FalplanError
    from falplan.sdk.resources import Failed

    last: FalplanError | None = None
    for _ in range(times):
        try:
            return buy()
        except Failed:
            raise
        except (FalplanError, Killed) as exc:
            last = exc if isinstance(exc, FalplanError) else last
            after_each()
    raise AssertionError(f"it was not bought after {times} times: {last}")
