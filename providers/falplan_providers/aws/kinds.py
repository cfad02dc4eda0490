"""Which of EC2's instance types runners may be put on, and the room that one of each has while it is empty. Asks nobody.

What a type has is not written here: DescribeInstanceTypes says it. This names those that are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from falplan.core.offers import Offered
from falplan.core.placement import Slots, is_gpu
from falplan.core.spec.resolved import MachineType

from .facts import InstanceType
from .prices import NOTHING_MORE, More, Prices

MIB = 1024**2
SIZES = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")

CPU = (
    *(f"t3.{size}" for size in ("small", "medium", "large")),
    *(
        f"m7i.{size}"
        for size in ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")
    ),
)
"""Types for runners without a GPU. Those whose name begins with t share their processors: three small runners fit on the smallest."""

GPUS: Mapping[str, tuple[str, ...]] = {
    "A100": ("p4d.24xlarge", "p4de.24xlarge"),
    "H100": ("p5.4xlarge", "p5.48xlarge"),
    "H200": ("p5en.48xlarge", "p5e.48xlarge"),
    "B200": ("p6-b200.48xlarge",),
    "B300": ("p6-b300.48xlarge",),
    "L40S": tuple(f"g6e.{size}" for size in SIZES),
    "L4": tuple(f"g6.{size}" for size in SIZES),
    "A10G": tuple(f"g5.{size}" for size in SIZES),
    "T4": tuple(f"g4dn.{size}" for size in SIZES if size not in ("24xlarge", "48xlarge")),
    "RTX PRO Server 6000": tuple(
        f"g7e.{size}" for size in ("2xlarge", "4xlarge", "8xlarge", "12xlarge", "24xlarge", "48xlarge")
    ),
    "RTX PRO 4500": tuple(
        f"g7.{size}" for size in ("2xlarge", "4xlarge", "8xlarge", "12xlarge", "24xlarge", "48xlarge")
    ),
}
"""GPU, as EC2 names it -> the x86-64 types that have whole ones of it."""

KEPT_BY_THE_KERNEL = 0.05
KEPT_BY_THE_SYSTEM = 256 * MIB
"""What a machine of EC2's does not have of the RAM that its type is sold with: a part, and what its system takes beside that."""


def known() -> frozenset[str]:
    """Every instance type that falplan may buy."""
    return frozenset({*CPU, *(name for names in GPUS.values() for name in names)})


def asked_for(kinds: Iterable[MachineType], substitutes: Mapping[str, Sequence[str]]) -> list[str]:
    """The instance types that may do for machine types.

    `substitutes`: machine type -> GPUs that may stand in for its own, as EC2 names them.
    """
    found: dict[str, None] = {}
    for kind in kinds:
        if not kind.gpu:
            found.update(dict.fromkeys(CPU))
            continue
        for gpu, names in GPUS.items():
            if is_gpu(kind, _with(gpu)) or gpu in substitutes.get(kind.name, ()):
                found.update(dict.fromkeys(names))
    return list(found)


def _with(gpu: str) -> Slots:
    return Slots(gpu, "", 0, 0, 0, 0, gpu_name=gpu)


def room(region: str, kind: InstanceType, stands_in: Collection[str] = ()) -> Slots:
    """What runners find on an empty machine of a type. It refuses what does not fit in full: a larger one can be had.

    `stands_in` are GPUs that machine types ask for and that this one's may replace.
    """
    ram = int(kind.memory * (1 - KEPT_BY_THE_KERNEL)) - KEPT_BY_THE_SYSTEM
    gpus = kind.gpus
    whole = gpus.count if gpus else 0
    return Slots(
        kind.name,
        region,
        total_vcpu=kind.vcpus,
        total_ram=ram,
        free_vcpu=kind.vcpus,
        free_ram=ram,
        total_gpus=whole,
        gpus=tuple(range(whole)),
        gpu_name=gpus.name if gpus else "",
        vram=gpus.memory if gpus else 0,
        strict=True,
        withheld=()
        if whole or not gpus
        else (f"it has {gpus.share:f} of a GPU ({gpus.name}), and runners get whole ones",),
        stands_in=tuple(sorted(stands_in)),
    )


def offered(
    region: str,
    place: str,
    types: Iterable[InstanceType],
    kinds: Iterable[MachineType],
    substitutes: Mapping[str, Sequence[str]],
    prices: Prices,
    more: More = NOTHING_MORE,
) -> list[Offered]:
    """What is for sale in a region of the spec, `region`, that lies in AWS's region `place`. `more` is the cost beside its type's.

    x86-64 alone, which environments are made for; without metal, which takes a quarter of an hour to boot.
    """
    own = list(kinds)
    found = []
    for kind in sorted(types, key=lambda t: t.name):
        if kind.arch != "x86_64" or kind.bare:
            continue
        gpu = kind.gpus.name if kind.gpus else ""
        stands_in = {k.gpu for k in own if k.gpu and gpu in substitutes.get(k.name, ())}
        price = prices.of(place, kind.name)
        cost = None if price is None else price + more.cost
        found.append(Offered(kind.name, room(region, kind, stands_in), cost, remark=more.remark))
    return found
