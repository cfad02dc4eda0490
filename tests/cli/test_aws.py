"""`falplan aws`: the permissions that AWS has to give, and its prices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from falplan.sdk.testing.fakeec2 import FakeEc2, fake_ec2
from falplan_providers.aws.prices import WHERE, read


@pytest.fixture
def fake() -> Iterator[FakeEc2]:
    with fake_ec2() as made:
        yield made


def aws(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    keys = {"AWS_ACCESS_KEY_ID": "AKIAFAKE", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    environ = {**os.environ, **keys, WHERE: str(folder / "prices.json")}
    argv = [sys.executable, "-m", "falplan", "-C", str(folder), "aws", *args]
    return subprocess.run(argv, capture_output=True, text=True, env=environ, timeout=60)


@pytest.mark.parametrize("whom", ["control-plane", "apply"])
def test_a_policy_is_printed_as_iam_reads_it(tmp_path: Path, whom: str) -> None:
    policy = json.loads(aws(tmp_path, "policy", whom).stdout)

    assert policy["Version"] == "2012-10-17"
    assert ("ec2:RunInstances" in str(policy)) is (whom == "control-plane")


def test_prices_of_the_specs_regions_are_fetched_and_kept(tmp_path: Path, fake: FakeEc2) -> None:
    region = f"provider: aws, region: us-east-1, max_machines: 1, budget_per_hour: 9, ssh_from: 10.0.0.1/32, endpoints: {{pricing: '{fake.url}'}}"
    (tmp_path / "falplan.yaml").write_text(f"version: 1\nproject: demo\nregions: {{east: {{{region}}}}}\n")
    ran = aws(tmp_path, "prices")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("us-east-1: 10 prices of 2")
    assert read((tmp_path / "prices.json").read_text()).of("us-east-1", "p5.48xlarge") == Decimal("55.04")


def test_without_a_region_it_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text("version: 1\nproject: demo\n")
    ran = aws(tmp_path, "prices")

    assert ran.returncode == 1
    assert "falplan aws prices eu-north-1" in ran.stderr
