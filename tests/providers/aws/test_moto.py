"""The plain shapes of every call, against a server that somebody else wrote: moto's. It ignores client tokens, and never fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from moto.server import ThreadedMotoServer

from falplan.core.spec.machine_types import BUILT_IN
from falplan.sdk.launches import Clock, Intent, Stage, Terms
from falplan.sdk.resources import Mark
from falplan.sdk.testing.conformance import check_resources
from falplan.sdk.testing.journals import MemoryJournal
from falplan_providers.aws.account import Access, Account
from falplan_providers.aws.groups import Group
from falplan_providers.aws.prices import Prices
from falplan_providers.aws.requests import Build, Disk
from falplan_providers.aws.selling import Seller, Wishes
from falplan_providers.aws.support import Support
from falplan_providers.aws.templates import Template, build_of

from .scene import OWNER
from .test_support import silent

CLOCK = Clock(time.time, time.sleep, lambda least, most: least)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def account(moto: str, monkeypatch: pytest.MonkeyPatch) -> Account:
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")):
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Account(Access("us-east-1", endpoints={"ec2": moto, "ssm": moto}))


def region(account: Account, *, ssh_from: str = "203.0.113.7/32") -> Support:
    image = account.ec2("describe_images", Owners=["amazon"])["Images"][0]["ImageId"]
    template = Template(image, image, Disk(), public=False, profile="", vpc="", tags={"team": "ml"})
    return Support("us-east", account, Group("", (ssh_from,), {}), template, {}, lambda seconds: None)


def test_what_machines_need_conforms(account: Account) -> None:
    one, two = region(account), region(account, ssh_from="10.0.0.0/8")
    for wanted, changed in zip(one.declared(), two.declared(), strict=True):
        if wanted.inputs != changed.inputs:
            check_resources(one, wanted, changed)


def test_a_machine_of_each_gpu_type_is_bought_seen_and_ended(account: Account, moto: str) -> None:
    support = region(account)
    for wanted in support.declared():
        mark = Mark(OWNER, f"{wanted.kind.value}.us-east", "op-1")
        support.create(wanted, mark, besides="", say=silent)

    def build(owner: str) -> Build:
        return build_of(account, owner, "us-east")

    seller = Seller("us-east", account, Terms(9, Decimal(999)), Wishes(public=False), build, Prices(), CLOCK)
    journal = MemoryJournal()
    for number, name in enumerate(("GPU-H100", "GPU-A100", "GPU-H200", "GPU-B200", "GPU-L40")):
        kinds = [offer.name for offer in seller.offers([BUILT_IN[name]])]
        made = seller.buy(kinds, Intent(f"m-{number}", OWNER, "cp-1", "ssh-ed25519 AAAA kim"), journal)
        assert made.pool.offer in kinds and made.address, "where it is reached from its own network"
        assert seller.buy(kinds, Intent(f"m-{number}", OWNER, "cp-1"), journal).identity == made.identity

    seen = seller.look(OWNER)
    assert {b.launch for b in seen} == {f"m-{n}" for n in range(5)} and {b.stage for b in seen} == {Stage.UP}
    assert seller.look("somebody else") == []
    seller.end(OWNER, [b.identity for b in seen])
    assert {b.stage for b in seller.look(OWNER)} == {Stage.GONE}
    for wanted in reversed(support.declared()):
        mark = Mark(OWNER, f"{wanted.kind.value}.us-east", "op-1")
        [found] = [f for f in support.look(OWNER, {}) if f.address == mark.address]
        support.delete(mark, found.identity, say=silent)
    assert support.look(OWNER, {}) == []
