"""Random histories of buying: killed at any moment, lied to, changed in between. Each machine is bought once, and none is forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from falplan.core.errors import FalplanError
from falplan.sdk.launches import Bought, Stage, Verdict
from falplan.sdk.resources import Failed
from falplan.sdk.testing.fakeec2 import Delays, FakeEc2, Fault, Strike
from falplan_providers.aws import machines
from falplan_providers.aws.account import Account
from falplan_providers.aws.requests import Image
from falplan_providers.aws.tags import OPERATION

from .scene import AMI, Deadline, Killed, Scene

OPERATIONS = ("op-a", "op-b", "op-c", "op-d")
KINDS = ("p5.48xlarge", "g6e.12xlarge", "g6.xlarge")
OTHER = Image("ami-0aaaaaaaaaaaaaaa2", "/dev/sda1", 8)
LATE = (("InternalError", 500), ("Unavailable", 503))
"""Errors that EC2 may answer although the work was done."""
EARLY = (*LATE, ("RequestLimitExceeded", 503), ("InvalidGroup.NotFound", 400), ("UnauthorizedOperation", 403))
"""Those that it answers before."""


def unlucky(fake: FakeEc2, rng: random.Random) -> None:
    """A world in which everything may go wrong, drawn anew."""
    account = fake.account
    account.delays = Delays(
        visible={"i": rng.choice((0, 0, 30, 290))},
        state=rng.choice((0, 0, 20, 60)),
        boot=rng.choice((5, 20, 90)),
        stop=rng.choice((5, 30, 300)),
        tokens=rng.choice((86_400, 86_400, 600)),
    )
    pools = [(k, z.zone_id, m) for k in KINDS for z in account.catalog.zones for m in ("on-demand", "spot")]
    account.capacity = {pool: rng.choice((0, 0, 1, 3)) for pool in pools if rng.random() < 0.5}
    account.stillborn = {pool for pool in pools if rng.random() < 0.1}
    account.quotas = {("P", "on-demand"): 192} if rng.random() < 0.3 else {}


def strike(fake: FakeEc2, rng: random.Random) -> None:
    """Faults for the next calls."""
    for _ in range(rng.randrange(3)):
        how = rng.choice((Strike.DROP, Strike.DONE_DROP, Strike.ERROR, Strike.DONE_ERROR))
        code, status = rng.choice(LATE if how is Strike.DONE_ERROR else EARLY)
        fake.account.faults.append(Fault("RunInstances", how, rng.randrange(1, 4), 1, code, status))
    if rng.random() < 0.1:
        fake.account.faults.append(Fault("DescribeInstances", Strike.ERROR, 1, 1, "UnauthorizedOperation", 403))


@contextmanager
def killed_at(scene: Scene, moment: int) -> Iterator[None]:
    """Dead at the `moment`-th of: before and after each note, before and after each call."""
    deadline = Deadline(moment)
    real = Account.launch

    def launch(account: Account, request: object) -> object:
        deadline()
        answer = real(account, request)  # type: ignore[arg-type]
        deadline()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Account, "launch", launch)
        patch.setattr(scene.journal, "before", deadline)
        patch.setattr(scene.journal, "after", deadline)
        yield


def history(fake: FakeEc2, seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(fake, KINDS, spot=rng.random() < 0.5)
    ways = scene.ways()
    unlucky(fake, rng)
    for _ in range(24):
        fake.account.faults.clear()
        strike(fake, rng)
        scene.image = rng.choice((AMI, OTHER))
        some = rng.sample(ways, rng.randrange(1, len(ways) + 1))
        try:
            with killed_at(scene, rng.randrange(1, 14)):
                scene.buy(rng.choice(OPERATIONS), some)
        except (FalplanError, Killed):
            pass
        fake.account.advance(rng.choice((0, 1, 40, 200, 700)))
        if rng.random() < 0.2:
            unlucky(fake, rng)
    converge(fake, scene)


def converge(fake: FakeEc2, scene: Scene) -> None:
    """Nothing goes wrong any more: every intent has its one machine, and everything ends when it is told to."""
    account = fake.account
    account.faults.clear()
    account.capacity, account.quotas, account.stillborn = {}, {}, set()
    account.advance(1_000)
    settled = {op: settle(fake, scene, op) for op in OPERATIONS}
    bought = {op: one for op, one in settled.items() if one is not None}
    alive = account.instances(alive=True)

    assert account.overlaps(OPERATION) == []
    assert sorted(i.id for i in alive) == sorted(b.identity for b in bought.values())
    ran = {i.id for i in account.instances() if account.seconds(i)}
    known = {a.identity for a in scene.journal.history}
    assert ran <= known, "every machine that ever cost anything stands in the journal"
    sent = [c.parameters for c in fake.calls_of("RunInstances") if c.parameters]
    by_token = {s["ClientToken"]: s for s in sent}
    assert all(s == by_token[s["ClientToken"]] for s in sent), "no token was sent with two requests"
    seen = {i["InstanceId"] for i in machines.owned(scene.account, scene.owner)}
    assert {b.identity for b in bought.values()} <= seen

    machines.end(scene.account, scene.owner, sorted(seen))
    account.advance(1_000)
    assert not account.instances(alive=True)
    states = [machines.bought(i).stage for i in machines.owned(scene.account, scene.owner)]
    assert all(s is Stage.GONE for s in states)


def settle(fake: FakeEc2, scene: Scene, operation: str) -> Bought | None:
    """The intent's machine; None if it has ended, and EC2 has forgotten it since."""
    for _ in range(40):
        try:
            found = scene.buy(operation)
            if found.stage is Stage.UP:
                assert scene.journal.attempts(operation)[-1].verdict is Verdict.MADE
                return found
        except Failed:
            last = scene.journal.attempts(operation)[-1]
            assert last.verdict is Verdict.ENDED
            assert last.identity not in {i.id for i in fake.account.instances(alive=True)}
            return None
        except FalplanError:
            pass
        fake.account.advance(60)
    raise AssertionError(f"{operation} came to nothing: {scene.journal.attempts(operation)}")


@pytest.mark.parametrize("seed", range(3))
def test_each_intent_has_one_machine_whatever_happens(fake: FakeEc2, seed: int) -> None:
    history(fake, seed)


@pytest.mark.faults
@pytest.mark.parametrize("block", range(10))
def test_two_hundred_histories_leave_none_behind(fake: FakeEc2, block: int) -> None:
    from falplan.sdk.testing.fakeec2 import Account as FakeAccount

    for seed in range(1000 + block * 20, 1020 + block * 20):
        fake.account = FakeAccount()
        history(fake, seed)


@pytest.mark.parametrize("moment", range(1, 15))
@pytest.mark.parametrize("lost", [None, Strike.DROP, Strike.DONE_DROP])
def test_a_kill_at_each_boundary_leaves_one_machine(fake: FakeEc2, moment: int, lost: Strike | None) -> None:
    scene = Scene(fake)
    ways = scene.ways()
    fake.account.delays = Delays(visible={"i": 120})
    fake.account.capacity["p5.48xlarge", "use1-az1", "on-demand"] = 0
    if lost:
        fake.account.faults.append(Fault("RunInstances", lost, nth=2))
    try:
        with killed_at(scene, moment):
            scene.buy("op-a", ways)
    except Killed:
        pass
    scene.kinds = ("g6.xlarge",)
    made = scene.buy("op-a")

    assert [i.id for i in fake.account.instances()] == [made.identity]
    assert scene.journal.attempts("op-a")[-1].identity == made.identity
