"""What falplan has to be allowed: all that it calls, nothing that it does not, and nothing of anybody else."""

from __future__ import annotations

from typing import Any

import pytest

from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.values import JsonObject
from falplan.sdk.launches import Clock, Intent, Terms
from falplan.sdk.resources import Mark
from falplan.sdk.testing.fakeec2 import FakeEc2
from falplan.sdk.testing.journals import MemoryJournal
from falplan_providers.aws.groups import permission
from falplan_providers.aws.options import IMAGE
from falplan_providers.aws.policy import actions, applying, control_plane
from falplan_providers.aws.prices import Prices
from falplan_providers.aws.requests import Build, Disk
from falplan_providers.aws.selling import Seller, Wishes
from falplan_providers.aws.templates import build_of

from .scene import OWNER, account_at
from .test_support import ec2, made, mark, silent, support

CHANGES = ("Authorize", "Create", "Delete", "Modify", "Revoke", "Run", "Terminate")
UNMARKED = {"image", "snapshot", "subnet", "security-group", "launch-template", "key-pair", "vpc"}
"""What a launch, or a group, is made from: somebody else's too."""


def called(fake: FakeEc2) -> set[str]:
    return {f"{'ssm' if c.action == 'GetParameter' else 'ec2'}:{c.action}" for c in fake.account.calls}


def a_seller(fake: FakeEc2) -> Seller:
    account = fake.account
    prices = Prices({"us-east-1": {t.name: t.price for t in account.catalog.types}})
    clock = Clock(lambda: account.now, account.advance, lambda least, most: most)

    def build(owner: str) -> Build:
        return build_of(account_at(fake.url), owner, "us-east")

    return Seller("us-east", account_at(fake.url), Terms(4), Wishes(spot=True), build, prices, clock)


def test_what_falplan_calls_is_allowed_and_nothing_that_it_never_calls(fake: FakeEc2) -> None:
    """Made, changed, bought, looked at, ended and removed: by two policies, of which one buys and one applies."""
    first = made(support(fake, image="").resolved({}, ask=True))
    region = support(fake, ssh_from=("10.0.0.0/8",), disk=Disk(300), tags={"team": "ml"})
    changed = [
        region.update(wanted, mark(wanted.kind, "op-2"), found.identity, say=silent)
        for wanted, found in zip(region.declared(), first, strict=True)
    ]
    opened = [permission("tcp 443 to 10.1.0.0/16")]
    ec2(fake).authorize_security_group_egress(GroupId=first[0].identity, IpPermissions=opened)
    for wanted, found in zip(support(fake).declared(), first, strict=True):
        support(fake).update(wanted, mark(wanted.kind, "op-3"), found.identity, say=silent)
    by_applying = called(fake)
    fake.account.calls.clear()
    seller = a_seller(fake)
    kinds = [offer.name for offer in seller.offers([BUILT_IN["GPU-L40"]])]
    bought = seller.buy(kinds, Intent("us-east/m-1", OWNER, "plane-1"), MemoryJournal())
    fake.account.advance(60)
    [seen] = seller.look(OWNER)
    seller.entry(seen)
    seller.end(OWNER, [bought.identity])
    by_buying = called(fake)
    fake.account.advance(600)
    fake.account.calls.clear()
    for found in reversed(changed):
        region.delete(Mark(OWNER, found.address, "op-4"), found.identity, say=silent)
    by_applying |= called(fake)

    assert by_buying <= actions(control_plane())
    assert by_applying <= actions(applying())
    assert actions(control_plane()) | actions(applying()) == by_buying | by_applying | {"ec2:CreateTags"}


@pytest.mark.parametrize("policy", [control_plane(), applying(), control_plane(OWNER), applying(OWNER)])
def test_nothing_that_carries_no_mark_is_changed(policy: JsonObject) -> None:
    """Each right to change is bound to a mark, or to what a launch is made from."""
    statements: Any = policy["Statement"]
    for statement in statements:
        changes = [a for a in statement["Action"] if a.partition(":")[2].startswith(CHANGES)]
        kinds = {arn.rpartition(":")[2].partition("/")[0] for arn in statement["Resource"]}
        if changes and not kinds <= UNMARKED:
            assert "Condition" in statement, statement["Sid"]
        if set(changes) - {"ec2:RunInstances", "ec2:CreateSecurityGroup"}:
            assert "Condition" in statement, statement["Sid"]


def test_a_projects_own_policy_names_it() -> None:
    assert OWNER in str(control_plane(OWNER)) and OWNER in str(applying(OWNER))
    assert "iam:PassRole" not in actions(control_plane())
    assert "iam:PassRole" in actions(control_plane(profile_role="arn:aws:iam::123456789012:role/machines"))


def test_the_default_image_is_a_public_parameter() -> None:
    assert IMAGE.startswith("/aws/service/")
