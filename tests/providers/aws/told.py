"""What EC2 told of its instance types."""

from __future__ import annotations

import functools
import gzip
import json
from importlib import resources

from falplan_providers.aws.facts import InstanceType, instance_type


@functools.cache
def ec2s_types() -> dict[str, InstanceType]:
    """What DescribeInstanceTypes answered in the real us-east-1 and other regions, as moto carries it."""
    packed = resources.files("moto.ec2.resources").joinpath("instance_types.json.gz").read_bytes()
    return {name: instance_type(told) for name, told in json.loads(gzip.decompress(packed)).items()}
