"""Calling as a role: with a session's credentials, which are asked for anew before they expire."""

from __future__ import annotations

import json
import time

import boto3
import pytest

from falplan.core.errors import FalplanError
from falplan.sdk.testing.fakeec2 import FakeEc2
from falplan_providers.aws.account import Access, Account

TRUST = json.dumps({"Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]})


@pytest.fixture
def role(fake: FakeEc2) -> str:
    """In an account whose clock is this machine's: botocore looks at that one to tell whether credentials have expired."""
    fake.account.now = time.time()
    fake.account.external_id = "of-ours"
    iam = boto3.client("iam", endpoint_url=fake.url, region_name="us-east-1", **fake.credentials)
    return str(iam.create_role(RoleName="falplan", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"])


def account(fake: FakeEc2, role: str, external: str) -> Account:
    endpoints = dict.fromkeys(("ec2", "sts"), fake.url)
    return Account(Access("us-east-1", role=role, external=external, endpoints=endpoints))


def test_calls_are_a_roles_by_a_session_that_serves_for_all_of_them(fake: FakeEc2, role: str) -> None:
    ours = account(fake, role, "of-ours")
    for _ in range(3):
        ours.ec2("describe_vpcs")

    [assumed] = fake.calls_of("AssumeRole")
    assert assumed.parameters["ExternalId"] == "of-ours"
    assert {c.key[:4] for c in fake.calls_of("DescribeVpcs")} == {"ASIA"}
    assert ours.number == "123456789012"


def test_a_role_whose_owner_asks_for_another_id_is_refused(fake: FakeEc2, role: str) -> None:
    with pytest.raises(FalplanError, match="AccessDenied"):
        account(fake, role, "another").ec2("describe_vpcs")
