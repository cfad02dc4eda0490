"""What a plan costs in which nothing changes, by the number of machines that were bought: calls of EC2, and time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from falplan.sdk.testing.fakeec2 import FakeEc2, fake_ec2
from falplan_providers.aws.tags import CONTROL_PLANE, OPERATION, OWNER, POOL, REGION, specifications

pytestmark = pytest.mark.bench
SIZES = (10, 100, 1_000)
ROUNDS = 3
PAGE = 1_000
"""Machines that EC2 shows in one answer."""
SPEC = """version: 1
project: many
gateway: {{ephemeral: true}}
regions:
  east:
    provider: aws
    region: us-east-1
    max_machines: 2000
    budget_per_hour: 100000
    public: false
    ssh_from: 10.0.0.1/32
    image: ami-0aaaaaaaaaaaaaaa1
    endpoints: {{ec2: "{url}", ssm: "{url}"}}
"""


class Account:
    """A project whose region is applied, and whose control plane is dead: a plan asks EC2 itself for what was bought."""

    def __init__(self, folder: Path, fake: FakeEc2) -> None:
        self.folder, self.fake = folder, fake
        keys = {"AWS_ACCESS_KEY_ID": "AKIAFAKE", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
        own = {"XDG_STATE_HOME": str(folder / "state"), "FALPLAN_MACHINE_DIR": str(folder / "ledger"), "CI": ""}
        self.environ = {**os.environ, **keys, **own}
        (folder / "falplan.yaml").write_text(SPEC.format(url=fake.url))
        self.run("apply", "--auto-approve")
        self.owner = json.loads(self.run("plan", "--json"))["falplan"]["lineage"]
        self.there = 0

    def run(self, *args: str) -> str:
        argv = [sys.executable, "-m", "falplan", "-C", str(self.folder), *args]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.environ, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def grow(self, to: int) -> None:
        """As many machines of this project, of a control plane that is gone."""
        ec2 = boto3.client("ec2", endpoint_url=self.fake.url, region_name="us-east-1", **self.fake.credentials)
        while self.there < to:
            some = min(to - self.there, 100)
            tags = {OWNER: self.owner, CONTROL_PLANE: "cp-0", OPERATION: f"m-{self.there}", REGION: "east"}
            told = specifications({**tags, POOL: "use1-az1 g6.xlarge on-demand"}, ("instance",))
            ec2.run_instances(
                ImageId="ami-0aaaaaaaaaaaaaaa1",
                InstanceType="g6.xlarge",
                MinCount=some,
                MaxCount=some,
                TagSpecifications=told,
            )
            self.there += some

    def plan(self) -> tuple[float, Counter[str], int]:
        """Seconds, calls by their names, and the machines that the plan tells of."""
        self.fake.account.calls.clear()
        began = time.perf_counter()
        told = json.loads(self.run("plan", "--json"))
        seconds = time.perf_counter() - began
        return seconds, Counter(c.action for c in self.fake.account.calls), len(told["falplan"]["machines"]["unknown"])


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with fake_ec2() as fake:
        made = Account(tmp_path, fake)
        subprocess.run(["pkill", "-9", "-f", f"falplan serve --home {tmp_path}"], check=False)
        try:
            yield made
        finally:
            subprocess.run(["pkill", "-9", "-f", f"falplan serve --home {tmp_path}"], check=False)


def test_calls_do_not_grow_with_machines_beyond_pages(account: Account) -> None:
    found = {}
    for size in SIZES:
        account.grow(size)
        rounds = [account.plan() for _ in range(ROUNDS)]
        assert all(shown == size for _, _, shown in rounds)
        found[size] = statistics.median(seconds for seconds, _, _ in rounds), rounds[-1][1]
    least = found[SIZES[0]]
    print("\nplan without a change, by machines that EC2 shows:")
    for size, (seconds, calls) in found.items():
        ratio = seconds / least[0]
        print(
            f"  {size:>5}: {sum(calls.values())} calls ({dict(sorted(calls.items()))}), {seconds:.2f} s = {ratio:.2f} x of {SIZES[0]}"
        )
        assert sum(calls.values()) - sum(least[1].values()) <= size // PAGE
