"""A region of AWS as it is written: how many machines of EC2 may be had there, which, and for how much. Knows nothing of what is there."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from falplan.core.spec.codes import Code
from falplan.core.spec.model import Model, one_of
from falplan.core.spec.regions import RegionMoney
from falplan.core.spec.types import (
    Bool,
    Count,
    Money,
    Name,
    Positive,
    Size,
    Tags,
    Text,
    TypeName,
    duration,
    fault,
    one_or_many,
    text,
    whole,
)


def _form(pattern: str, what: str, example: str) -> Any:
    """A reader of text of one form."""

    def read(value: Any) -> str:
        word = text(value)
        if re.fullmatch(pattern, word):
            return word
        raise fault(Code.RANGE, f"not {what}", f"such as {example}")

    return read


def _schema(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})$"}


def _one_or_many(one: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})


def _callers(value: Any) -> str:
    """Addresses that may connect. The whole world may not: that is how machines are broken into."""
    word = text(value)
    try:
        network = ipaddress.ip_network(word)
    except ValueError as exc:
        raise fault(Code.RANGE, f"not a network: {exc}", "such as 203.0.113.7/32 or 10.0.0.0/8") from exc
    if network.prefixlen < (8 if network.version == 4 else 32):
        hint = "name the addresses that the control plane connects from, such as 203.0.113.7/32"
        raise fault(Code.RANGE, f"{word} is much of the world, and machines are never open to it", hint)
    return str(network)


def _at_least(least: float, hint: str) -> Any:
    def read(value: Any) -> float:
        seconds = duration(value)
        if seconds >= least:
            return seconds
        raise fault(Code.RANGE, "too short", hint)

    return read


_REGION, _TYPE = r"[a-z]{2,}(-[a-z]+)+-\d+", r"[a-z0-9*-]+\.[a-z0-9*-]+"
_VPC, _SUBNET, _IMAGE = r"vpc-[0-9a-f]+", r"subnet-[0-9a-f]+", r"ami-[0-9a-f]+|/\S+"
_ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/\S+"
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_DURATION: dict[str, Any] = {"anyOf": [{"type": "number"}, _TEXT]}

AwsName = Annotated[
    str, PlainValidator(_form(_REGION, "a region of AWS", "us-east-1")), WithJsonSchema(_schema(_REGION))
]
Patterns = Annotated[
    list[str],
    PlainValidator(one_or_many(_form(_TYPE, "an instance type", "g6e.* or p5.48xlarge"))),
    _one_or_many(_schema(_TYPE)),
]
GpuNames = Annotated[list[str], PlainValidator(one_or_many(text)), _one_or_many(_TEXT)]
Vpc = Annotated[str, PlainValidator(_form(_VPC, "a VPC's id", "vpc-0a1b2c3d4e5f60718")), WithJsonSchema(_schema(_VPC))]
Subnets = Annotated[
    list[str],
    PlainValidator(one_or_many(_form(_SUBNET, "a subnet's id", "subnet-0a1b2c3d4e5f60718"))),
    _one_or_many(_schema(_SUBNET)),
]
Networks = Annotated[list[str], PlainValidator(one_or_many(_callers)), _one_or_many(_TEXT)]
ImageName = Annotated[
    str,
    PlainValidator(_form(_IMAGE, "an image's id, or the path of an SSM parameter", "ami-0a1b2c3d4e5f60718")),
    WithJsonSchema(_schema(_IMAGE)),
]
RoleArn = Annotated[
    str,
    PlainValidator(_form(_ROLE, "a role's ARN", "arn:aws:iam::123456789012:role/falplan")),
    WithJsonSchema(_schema(_ROLE)),
]
IdleTimeout = Annotated[
    float,
    PlainValidator(_at_least(60.0, "1m at least: EC2 bills the first minute of a machine in full")),
    WithJsonSchema(_DURATION),
]
OrphanAfter = Annotated[
    float,
    PlainValidator(_at_least(300.0, "5m at least: a control plane that is upgraded or restarted is away that long")),
    WithJsonSchema(_DURATION),
]
Iops = Annotated[int, PlainValidator(whole(3000, 80_000)), WithJsonSchema({"type": "integer", "minimum": 3000})]
Throughput = Annotated[
    int,
    PlainValidator(whole(125, 2000)),
    WithJsonSchema({"type": "integer", "minimum": 125, "maximum": 2000}),
]


class Disk(Model):
    """The root volume of a machine: gp3, encrypted, gone with its machine."""

    size: Size = 200_000_000_000
    """Bytes, or text such as 200GB (10^9) or 200GiB (2^30); in whole GiB, rounded up. As large as the image's own at least."""
    iops: Iops = 6000
    """I/O operations a second. 3000 cost nothing more."""
    throughput: Throughput = 500
    """MiB a second. 125 cost nothing more, and make models slow to load."""


class AwsRegion(RegionMoney):
    """A region of AWS: machines are bought there for runners that have no room, and given back once they are empty."""

    provider: Annotated[str, *one_of("aws")]
    """Who gives the machines."""
    region: AwsName
    """AWS's name of it."""
    max_machines: Positive
    """How many machines there may be at once."""
    budget_per_hour: Money
    """Most that the machines there may cost together, in USD an hour: none is bought beyond it."""
    ssh_from: Networks
    """Networks from which machines are reached by SSH: the control plane's address. Nobody else gets to any port of theirs."""
    instance_types: Patterns | None = None
    """Instance types that may be bought; `*` stands for any text. All that falplan knows by default."""
    substitutes: dict[TypeName, GpuNames] = Field(
        default={},
        description="GPUs that may stand in for a machine type's own, by EC2's names of them. EC2 has no A6000, for one. None by default.",
        examples=[{"GPU-A6000": ["L40S"]}],
    )
    spot: Bool = False
    """Ask for spot machines first, and for others if there are none. EC2 takes spot machines back with two minutes' notice."""
    on_demand_base: Count = 0
    """How many machines are on demand before spot machines are asked for, so that not all can be taken back at once. With `spot: true`."""
    warm: dict[TypeName, Positive] = Field(
        default={},
        description="Room that is kept free: by machine type, for how many runners. Machines are bought for it beforehand, so that "
        "the next runners need not wait for one; they cost as much as those in use. None by default.",
        examples=[{"GPU-H100": 1}],
    )
    idle_timeout: IdleTimeout = 300.0
    """How long a machine without a runner is kept."""
    orphan_after: OrphanAfter = 1800.0
    """How long a machine that hears nothing of its control plane lives: then it ends its runners and itself."""
    vpc: Vpc | None = None
    """The network that machines stand in. The account's default one by default."""
    subnets: Subnets | None = None
    """The subnets that machines stand in. All of the default ones by default, or of `vpc`."""
    public: Bool = True
    """Give machines a public address, and reach them there. False: they are reached at their private one, which needs a way to it."""
    image: ImageName | None = None
    """Machine image: an id, or the path of an SSM parameter that holds one, which is looked up once and kept. AWS's Deep Learning Base
    image with Ubuntu 22.04 by default."""
    disk: Disk | None = None
    """The root volume of each machine."""
    instance_profile: Text | None = None
    """Name of an instance profile for machines. None by default: a machine may do nothing at AWS."""
    profile: Text | None = None
    """Profile of ~/.aws/config whose credentials are used. As boto3 finds them by default."""
    role: RoleArn | None = None
    """Role that is assumed with them."""
    external_id: Text | None = None
    """What the role's owner asks for with it."""
    endpoints: dict[Name, Text] = Field(
        default={},
        description="URLs in place of AWS's own, by service: `ec2`, `iam`, `ssm`, `sts`.",
        examples=[{"ec2": "http://127.0.0.1:5000"}],
    )
    tags: Tags = Field(
        default={},
        description="Tags of everything that is made there, beside falplan's own.",
        examples=[{"team": "ml"}],
    )
