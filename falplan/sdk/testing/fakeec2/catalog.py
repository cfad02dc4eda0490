"""What the fake region offers: instance types with their prices, zones, images. Figures are those of us-east-1 in 2026, in USD an hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class GpuKind:
    """The GPUs of an instance type. `memory` of each, in MiB."""

    name: str
    count: int
    memory: int


@dataclass(frozen=True, slots=True)
class InstanceType:
    """`memory` in MiB; `price` and `spot` in USD an hour, `spot` None where there is none. `zones` are AZ ids, all of them if empty."""

    name: str
    vcpu: int
    memory: int
    price: Decimal
    spot: Decimal | None = None
    gpu: GpuKind | None = None
    zones: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Which quota counts its vCPUs: `P`, `G` or `Standard`."""
        letter = self.name[0].upper()
        return letter if letter in ("P", "G") else "Standard"


def _type(
    name: str, vcpu: int, gib: int, price: str, spot: str = "", gpu: tuple[str, int, int] | None = None
) -> InstanceType:
    kind = GpuKind(*gpu) if gpu else None
    return InstanceType(name, vcpu, gib * 1024, Decimal(price), Decimal(spot) if spot else None, kind)


TYPES = (
    _type("t3.small", 2, 2, "0.0208", "0.0083"),
    _type("m7i.large", 2, 8, "0.1008", "0.0361"),
    _type("c7i.xlarge", 4, 8, "0.1785", "0.0712"),
    _type("g6.xlarge", 4, 16, "0.805", "0.26", ("L4", 1, 22888)),
    _type("g6e.4xlarge", 16, 128, "3.004", "1.10", ("L40S", 1, 45776)),
    _type("g6e.12xlarge", 48, 384, "10.493", "3.29", ("L40S", 4, 45776)),
    _type("p4d.24xlarge", 96, 1152, "21.957", "6.29", ("A100", 8, 40960)),
    _type("p5.4xlarge", 16, 256, "6.88", "", ("H100", 1, 81559)),
    _type("p5.48xlarge", 192, 2048, "55.04", "14.25", ("H100", 8, 81559)),
    _type("p5en.48xlarge", 192, 2048, "63.296", "19.17", ("H200", 8, 143771)),
    _type("p6-b200.48xlarge", 192, 2048, "113.933", "19.09", ("B200", 8, 183359)),
)


@dataclass(frozen=True, slots=True)
class Image:
    """A machine image. `size` in GiB, the least of its root volume."""

    image_id: str
    name: str
    root_device: str = "/dev/sda1"
    size: int = 35
    architecture: str = "x86_64"


IMAGES = (
    Image("ami-0aaaaaaaaaaaaaaa1", "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)"),
    Image("ami-0aaaaaaaaaaaaaaa2", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server", size=8),
    Image("ami-0aaaaaaaaaaaaaaa3", "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)"),
)

PARAMETERS: Mapping[str, str] = {
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id": IMAGES[0].image_id,
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id": IMAGES[2].image_id,
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id": IMAGES[1].image_id,
}
"""Public parameters of SSM: which image is the newest of its kind."""


@dataclass(frozen=True, slots=True)
class Zone:
    """An availability zone: its letter is the account's own, its id the same for everybody. It has one subnet, of one network."""

    name: str
    zone_id: str
    subnet_id: str
    cidr: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """A region as its account sees it."""

    region: str = "us-east-1"
    vpc_id: str = "vpc-0fa1e00000000000"
    types: tuple[InstanceType, ...] = TYPES
    images: tuple[Image, ...] = IMAGES
    zones: tuple[Zone, ...] = field(
        default=tuple(
            Zone(f"us-east-1{letter}", f"use1-az{number}", f"subnet-0fa1e0000000000{number}", f"10.40.{number}.0/24")
            for letter, number in (("a", 4), ("b", 6), ("c", 1), ("d", 2))
        )
    )

    def type_of(self, name: str) -> InstanceType | None:
        """The type of that name, None if the region has none."""
        return next((t for t in self.types if t.name == name), None)

    def offers(self, kind: InstanceType, zone: Zone) -> bool:
        """Whether the type is offered in a zone."""
        return not kind.zones or zone.zone_id in kind.zones

    def zone_of_subnet(self, subnet_id: str) -> Zone | None:
        """The zone of a subnet, None if there is no such subnet."""
        return next((z for z in self.zones if z.subnet_id == subnet_id), None)
