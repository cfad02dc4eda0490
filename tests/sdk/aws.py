"""Clients of boto3 for a fake account, and what they are refused with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from falplan.sdk.testing.fakeec2 import FakeEc2

IMAGE = "ami-0aaaaaaaaaaaaaaa1"


def client(
    fake: FakeEc2,
    service: str = "ec2",
    region: str = "us-east-1",
    *,
    check: bool = True,
    session: Mapping[str, str] | None = None,
) -> Any:
    """One attempt for each call: what the server answers is what the test sees. `check`: botocore looks at parameters first."""
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=check)
    how = {"endpoint_url": fake.url, "region_name": region, "config": config}
    return boto3.client(service, **how, **(session or fake.credentials))


def launch(ec2: Any, **more: Any) -> str:
    asked = {"ImageId": IMAGE, "InstanceType": "g6.xlarge", "MinCount": 1, "MaxCount": 1, **more}
    [made] = ec2.run_instances(**asked)["Instances"]
    return str(made["InstanceId"])


def refused(call: Callable[..., Any], **asked: Any) -> str:
    """The code that a call is refused with."""
    with pytest.raises(ClientError) as answer:
        call(**asked)
    return str(answer.value.response["Error"]["Code"])
