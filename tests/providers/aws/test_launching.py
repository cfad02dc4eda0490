"""Buying a machine of the fake EC2: once for each intent, whatever is lost, refused, killed or changed meanwhile."""

from __future__ import annotations

from decimal import Decimal

import pytest

from falplan.sdk.launches import NoCapacity, Pool, Stage, Verdict
from falplan.sdk.resources import Denied, Failed
from falplan.sdk.shell import Unreachable
from falplan.sdk.testing.fakeec2 import Credential, Delays, FakeEc2, Fault, Instance, Strike
from falplan_providers.aws import machines
from falplan_providers.aws.tags import CONTROL_PLANE, OPERATION, OWNER, POOL, REGION

from .scene import Scene, until_it_is_bought

ZONES = ("use1-az1", "use1-az2", "use1-az4", "use1-az6")


def instances(fake: FakeEc2) -> list[Instance]:
    return fake.account.instances(alive=True)


def test_one_intent_buys_one_machine_and_everything_of_it_leads_back(scene: Scene, fake: FakeEc2) -> None:
    first = scene.buy("op-1")
    fake.account.advance(60)
    again = scene.buy("op-1")
    other = scene.buy("op-2")

    assert (first.stage, again.stage) == (Stage.STARTING, Stage.UP)
    assert again.identity == first.identity != other.identity
    assert (first.launch, first.control_plane, first.pool) == (
        "op-1",
        "plane-1",
        Pool("p5.48xlarge", "use1-az1", "on-demand"),
    )
    tags = {
        OWNER: scene.owner,
        CONTROL_PLANE: "plane-1",
        OPERATION: "op-1",
        REGION: "us-east",
        POOL: "use1-az1 p5.48xlarge on-demand",
        "Name": "falplan us-east",
    }
    made = [t for t in fake.account.things.values() if t.tags.get(OPERATION) == "op-1"]
    assert sorted(t.id.split("-")[0] for t in made) == ["eni", "i", "vol"]
    assert all(t.tags == tags for t in made)


def test_each_attempt_is_written_down_before_it_is_sent(scene: Scene, fake: FakeEc2) -> None:
    calls = []
    scene.journal.before = lambda: calls.append(len(fake.calls_of("RunInstances")))
    scene.buy("op-1")

    intent, told = scene.journal.history
    assert calls == [0, 1]
    assert (intent.verdict, told.verdict) == (Verdict.UNKNOWN, Verdict.MADE)
    assert intent.request == told.request
    assert fake.calls_of("RunInstances")[0].parameters["ClientToken"] == intent.request["ClientToken"]


@pytest.mark.parametrize("strike", [Strike.DROP, Strike.DONE_DROP, Strike.ERROR, Strike.DONE_ERROR])
def test_a_lost_answer_makes_no_second_machine(scene: Scene, fake: FakeEc2, strike: Strike) -> None:
    fake.account.faults.append(Fault("RunInstances", strike, times=4))
    made = scene.buy("op-1")

    assert [i.id for i in instances(fake)] == [made.identity]
    sent = [c.parameters for c in fake.calls_of("RunInstances")]
    assert len(sent) == 5
    assert all(s == sent[0] for s in sent), "byte for byte the same"


def test_what_stays_unknown_is_said_and_asked_for_again(scene: Scene, fake: FakeEc2) -> None:
    fake.account.faults.append(Fault("RunInstances", Strike.DONE_DROP, times=0))
    with pytest.raises(Unreachable, match="not known yet"):
        scene.buy("op-1")
    assert len(instances(fake)) == 1
    fake.account.faults.clear()
    before = len(fake.calls_of("RunInstances"))

    assert scene.buy("op-1").identity == instances(fake)[0].id
    assert len(fake.calls_of("RunInstances")) == before, "it was found by its tags"


def test_a_changed_spec_replays_what_was_written_down(scene: Scene, fake: FakeEc2) -> None:
    fake.account.delays = Delays(visible={"i": 200})
    fake.account.faults.append(Fault("RunInstances", Strike.DONE_DROP, times=0))
    with pytest.raises(Unreachable):
        scene.buy("op-1")
    fake.account.faults.clear()
    scene.kinds = ("g6.xlarge",)
    made = scene.buy("op-1")

    assert made.pool.offer == "p5.48xlarge"
    assert [i.id for i in instances(fake)] == [made.identity]


def test_a_forgotten_token_makes_no_second_machine(scene: Scene, fake: FakeEc2) -> None:
    fake.account.delays = Delays(tokens=60)
    fake.account.faults.append(Fault("RunInstances", Strike.DONE_DROP, times=0))
    with pytest.raises(Unreachable):
        scene.buy("op-1")
    fake.account.faults.clear()
    fake.account.advance(100_000)

    assert scene.buy("op-1").identity == instances(fake)[0].id
    assert len(instances(fake)) == 1


def test_an_old_attempt_that_made_nothing_is_not_sent_again(scene: Scene, fake: FakeEc2) -> None:
    fake.account.faults.append(Fault("RunInstances", Strike.DROP, times=0))
    with pytest.raises(Unreachable):
        scene.buy("op-1")
    fake.account.faults.clear()
    fake.account.advance(100_000)
    scene.buy("op-1")

    assert [a.verdict for a in scene.journal.attempts("op-1")] == [Verdict.NOTHING, Verdict.MADE]
    tokens = {c.parameters["ClientToken"] for c in fake.calls_of("RunInstances")}
    assert len(tokens) == 2 and len(instances(fake)) == 1


# -- failover -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", range(9))
def test_pools_are_asked_one_after_the_other_once_each(scene: Scene, fake: FakeEc2, empty: int) -> None:
    scene.kinds = ("p5.48xlarge", "p5.4xlarge")
    ways = scene.ways()
    for way in ways[:empty]:
        fake.account.capacity[way.pool.offer, way.pool.zone, way.pool.market] = 0
    began = fake.account.now
    if empty == len(ways):
        with pytest.raises(NoCapacity) as refused:
            scene.buy("op-1", ways)
        assert refused.value.again_at == began + 180
        assert refused.value.detail.count("no capacity just now") == 8
    else:
        assert scene.buy("op-1", ways).pool == ways[empty].pool

    assert len(fake.calls_of("RunInstances")) == min(empty + 1, 8)
    assert fake.account.now == began, "no second is lost over pools without capacity"


def test_a_pool_without_capacity_is_left_alone_for_a_while_by_every_launch(scene: Scene, fake: FakeEc2) -> None:
    fake.account.capacity["p5.48xlarge", "use1-az1", "on-demand"] = 0
    zones = [scene.buy("op-1").pool.zone]
    fake.account.advance(170)
    zones.append(scene.buy("op-2").pool.zone)
    asked = len(fake.calls_of("RunInstances"))
    del fake.account.capacity["p5.48xlarge", "use1-az1", "on-demand"]
    fake.account.advance(20)
    zones.append(scene.buy("op-3").pool.zone)

    assert zones == ["use1-az2", "use1-az2", "use1-az1"]
    assert asked == 3


def test_a_machine_that_ends_without_having_run_leads_to_the_next_pool(scene: Scene, fake: FakeEc2) -> None:
    fake.account.stillborn.add(("p5.48xlarge", "use1-az1", "on-demand"))
    first = scene.buy("op-1")
    fake.account.advance(30)
    second = scene.buy("op-1")

    assert (first.pool.zone, second.pool.zone) == ("use1-az1", "use1-az2")
    assert [i.id for i in instances(fake)] == [second.identity]
    assert [a.verdict for a in scene.journal.attempts("op-1")] == [Verdict.CAPACITY, Verdict.MADE]


def test_a_quota_ends_its_family_and_names_the_way_out(scene: Scene, fake: FakeEc2) -> None:
    fake.account.quotas["P", "on-demand"] = 96
    with pytest.raises(NoCapacity) as refused:
        scene.buy("op-1")
    assert len(fake.calls_of("RunInstances")) == 1
    assert "quota of 96 vCPU allowed no 192 vCPU more" in refused.value.detail
    assert "--quota-code L-417A185B --desired-value 288" in refused.value.detail
    scene.kinds = ("p5.48xlarge", "g6e.12xlarge")

    assert scene.buy("op-1").pool.offer == "g6e.12xlarge"
    assert len(fake.calls_of("RunInstances")) == 2


def test_spot_is_bought_as_spot_and_only_once(scene: Scene, fake: FakeEc2) -> None:
    scene.spot = True
    fake.account.capacity |= {("p5.48xlarge", zone, "spot"): 0 for zone in ZONES[:3]}
    made = scene.buy("op-1")

    assert (made.pool.zone, made.pool.market) == ("use1-az6", "spot")
    [instance] = instances(fake)
    assert instance.spot and instance.price == Decimal("14.25")
    sent = fake.calls_of("RunInstances")[-1].parameters
    assert sent["InstanceMarketOptions"]["SpotOptions"]["SpotInstanceType"] == "one-time"
    assert "spot-instances-request" in {s["ResourceType"] for s in sent["TagSpecifications"]}


# -- what stops everything ------------------------------------------------------------------------------------------------


def test_a_missing_permission_stops_at_the_first_call(scene: Scene, fake: FakeEc2) -> None:
    ways = scene.ways()
    fake.account.credentials["AKIAFAKE"] = Credential(denied=("RunInstances",))
    for _ in range(2):
        with pytest.raises(Denied, match="falplan aws policy"):
            scene.buy("op-1", ways)
    assert len(fake.calls_of("RunInstances")) == 2
    fake.account.credentials["AKIAFAKE"] = Credential()
    scene.buy("op-1", ways)

    assert len(instances(fake)) == 1


def test_a_request_without_meaning_stops_at_the_first_call(scene: Scene, fake: FakeEc2) -> None:
    from falplan_providers.aws.requests import Image

    scene.image = Image("ami-0123", "/dev/sda1", 8)
    with pytest.raises(Failed, match="InvalidAMIID"):
        scene.buy("op-1")
    assert len(fake.calls_of("RunInstances")) == 1


def test_credentials_that_expire_after_a_lost_answer_prove_nothing(scene: Scene, fake: FakeEc2) -> None:
    ways = scene.ways()
    fake.account.faults.append(Fault("RunInstances", Strike.DONE_DROP))
    fake.account.credentials["AKIAFAKE"] = Credential(until=fake.account.now + 0.5)
    with pytest.raises(Denied, match="expired"):
        scene.buy("op-1", ways)
    assert scene.journal.attempts("op-1")[0].verdict is Verdict.UNKNOWN
    fake.account.credentials["AKIAFAKE"] = Credential()

    assert scene.buy("op-1", ways).identity == instances(fake)[0].id
    assert len(instances(fake)) == 1


def test_a_group_that_went_after_a_lost_answer_proves_nothing_either(scene: Scene, fake: FakeEc2) -> None:
    ways = scene.ways()
    fake.account.delays = Delays(visible={"i": 100})
    faults = [
        Fault("RunInstances", Strike.DONE_DROP),
        Fault("RunInstances", Strike.ERROR, 2, 1, "InvalidGroup.NotFound", 400),
    ]
    fake.account.faults += faults
    with pytest.raises(Unreachable):
        scene.buy("op-1", ways)
    fake.account.advance(100)

    assert scene.buy("op-1", ways).identity == instances(fake)[0].id
    assert len(instances(fake)) == 1


def test_a_request_that_can_not_be_sent_again_is_given_up_once_nothing_can_be_hidden(
    scene: Scene, fake: FakeEc2
) -> None:
    ways = scene.ways()
    fake.account.faults += [
        Fault("RunInstances", Strike.DROP),
        Fault("RunInstances", Strike.ERROR, 2, 2, "InvalidGroup.NotFound", 400),
    ]
    with pytest.raises(Unreachable):
        scene.buy("op-1", ways)
    fake.account.advance(301)
    with pytest.raises(Failed, match=r"InvalidGroup\.NotFound"):
        scene.buy("op-1", ways)

    assert [a.verdict for a in scene.journal.attempts("op-1")] == [Verdict.PARAMETER]
    scene.buy("op-1", ways)
    assert len(instances(fake)) == 1


def test_a_machine_that_somebody_ended_is_not_bought_again_for_the_same_intent(scene: Scene, fake: FakeEc2) -> None:
    made = scene.buy("op-1")
    machines.end(scene.account, scene.owner, [made.identity])
    for _ in range(3):
        with pytest.raises(Failed, match=made.identity):
            scene.buy("op-1")
        fake.account.advance(3_000)

    assert not instances(fake)


def test_what_is_not_shown_yet_is_starting(scene: Scene, fake: FakeEc2) -> None:
    fake.account.delays = Delays(visible={"i": 290})
    made = scene.buy("op-1")
    fake.account.advance(280)
    again = scene.buy("op-1")
    fake.account.advance(30)

    assert (again.identity, again.stage) == (made.identity, Stage.STARTING)
    assert scene.buy("op-1").stage is Stage.UP
    assert len(instances(fake)) == 1


# -- others ---------------------------------------------------------------------------------------------------------------


def test_two_projects_with_the_same_names_do_not_meet(fake: FakeEc2) -> None:
    mine, theirs = Scene(fake), Scene(fake, owner="99999999-2222-4333-8444-555555555555")
    own, other = mine.buy("op-1"), theirs.buy("op-1")
    machines.end(fake_account := mine.account, mine.owner, [own.identity, other.identity])

    assert own.identity != other.identity
    assert [i.id for i in instances(fake)] == [other.identity]
    assert [i["InstanceId"] for i in machines.owned(fake_account, theirs.owner)] == [other.identity]


def test_one_that_may_not_be_ended_does_not_keep_the_others(scene: Scene, fake: FakeEc2) -> None:
    made = [scene.buy(f"op-{n}") for n in range(4)]
    kept = fake.account.things[made[1].identity]
    assert isinstance(kept, Instance)
    kept.protected = True
    from falplan.core.errors import FalplanError

    with pytest.raises(FalplanError, match="may not be terminated"):
        machines.end(scene.account, scene.owner, [m.identity for m in made])
    assert [i.id for i in instances(fake)] == [kept.id]
    kept.protected = False
    for _ in range(2):
        machines.end(scene.account, scene.owner, [m.identity for m in made])
    assert not instances(fake)


def test_looking_takes_a_call_for_each_thousand(scene: Scene, fake: FakeEc2) -> None:
    ways = scene.ways()
    for number in range(30):
        scene.buy(f"op-{number}", ways)
    before = len(fake.account.calls)
    found = machines.owned(scene.account, scene.owner)

    assert len(found) == 30
    assert len(fake.account.calls) == before + 1


def test_a_busy_api_is_asked_again_with_the_same_token(scene: Scene, fake: FakeEc2) -> None:
    fault = Fault("RunInstances", Strike.ERROR, times=3, code="RequestLimitExceeded", status=503)
    fake.account.faults.append(fault)
    made = until_it_is_bought(lambda: scene.buy("op-1"), 1, after_each=lambda: None)

    assert [i.id for i in instances(fake)] == [made.identity]
    assert len({c.parameters["ClientToken"] for c in fake.calls_of("RunInstances")}) == 1
