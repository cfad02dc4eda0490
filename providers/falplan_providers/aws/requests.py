"""The requests that launch machines, whole: made of values alone, so that the same values make the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from falplan.core.values import JsonObject
from falplan.sdk.launches import Intent, Pool

from .pools import SPOT
from .tags import CONTROL_PLANE, OPERATION, OWNER, POOL, REGION, specifications

GIB = 1024**3
LONGEST_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Image:
    """A machine image. `size` is the least of its root volume, in GiB; `root` the volume's device."""

    id: str
    root: str
    size: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The root volume, gp3 and encrypted: GiB, I/O operations a second, MiB a second."""

    size: int = 200
    iops: int = 6000
    throughput: int = 500


@dataclass(frozen=True, slots=True)
class Build:
    """What every machine of a region has in common. `profile` is the name of an instance profile, empty for none; `boot` the text that
    cloud-init reads; `hops` 2 only where a container is to reach the metadata service."""

    image: Image
    groups: tuple[str, ...]
    disk: Disk = field(default_factory=Disk)
    profile: str = ""
    boot: str = ""
    public: bool = True
    hops: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)


def token_of(intent: Intent, pool: Pool, number: int) -> str:
    """The client token of an attempt: another one for each pool and attempt, the same one whenever that is sent again.

    A token counts in one zone alone, and is spent once its machine has ended:
    https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
    """
    said = "|".join((intent.owner, intent.control_plane, intent.operation, str(number), str(pool)))
    spelt = base64.b32encode(hashlib.sha256(said.encode()).digest()).decode().rstrip("=").lower()
    return spelt[:LONGEST_TOKEN]


def run_instances(build: Build, intent: Intent, pool: Pool, number: int, *, subnet: str, region: str) -> JsonObject:
    """The parameters of RunInstances for one machine."""
    tags = {
        **build.tags,
        OWNER: intent.owner,
        CONTROL_PLANE: intent.control_plane,
        OPERATION: intent.operation,
        REGION: region,
        POOL: str(pool),
        "Name": f"falplan {region}",
    }
    spot = pool.market == SPOT
    kinds = ("instance", "volume", "network-interface", *(("spot-instances-request",) if spot else ()))
    asked = {
        "ImageId": build.image.id,
        "InstanceType": pool.offer,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token_of(intent, pool, number),
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": subnet,
                "Groups": list(build.groups),
                "AssociatePublicIpAddress": build.public,
                "DeleteOnTermination": True,
            }
        ],
        "BlockDeviceMappings": [root_volume(build.image, build.disk)],
        "MetadataOptions": metadata(build.hops),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "EbsOptimized": True,
        "TagSpecifications": specifications(tags, kinds),
        **({"IamInstanceProfile": {"Name": build.profile}} if build.profile else {}),
        **({"UserData": build.boot} if build.boot else {}),
        **({"InstanceMarketOptions": _SPOT} if spot else {}),
    }
    return cast("JsonObject", asked)


_SPOT = {
    "MarketType": "spot",
    "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
}


def metadata(hops: int) -> JsonObject:
    """The metadata service: for those with a token (IMDSv2) alone, who are no more than so many hops away."""
    return {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": hops,
        "HttpEndpoint": "enabled",
        "InstanceMetadataTags": "enabled",
    }


def root_volume(image: Image, disk: Disk) -> JsonObject:
    """The root volume as EC2 is asked for it: as large as the image needs, at least."""
    return {
        "DeviceName": image.root,
        "Ebs": {
            "VolumeSize": max(disk.size, image.size),
            "VolumeType": "gp3",
            "Iops": disk.iops,
            "Throughput": disk.throughput,
            "Encrypted": True,
            "DeleteOnTermination": True,
        },
    }
