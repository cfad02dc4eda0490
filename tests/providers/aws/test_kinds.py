"""fal's machine types and EC2's instance types, with what EC2 told of them, and no name written twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from falplan.core.offers import Choice, Unplaced, choices
from falplan.core.placement import Need
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.spec.resolved import MachineType
from falplan_providers.aws.kinds import CPU, GPUS, asked_for, offered, room
from falplan_providers.aws.prices import Prices

from .told import ec2s_types

PLACE = "us-east-1"


def fitting(
    kind: str,
    gpus: int | None = None,
    number: int = 1,
    substitutes: Sequence[str] = (),
    types: dict[str, MachineType] = BUILT_IN,
) -> list[Choice]:
    """The instance types for runners on a machine type, as if each cost a dollar an hour for each of its vCPUs."""
    own = {kind: list(substitutes)}
    names = asked_for([types[kind]], own)
    there = [ec2s_types()[name] for name in names if name in ec2s_types()]
    prices = Prices({PLACE: {t.name: Decimal(t.vcpus) for t in there}})
    offers = offered("us-east", PLACE, there, types.values(), own, prices)
    return choices([Unplaced(Need((kind,), gpus), number, types)], offers)[0]


def names(found: list[Choice]) -> list[str]:
    return [c.offer.name for c in found]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("GPU-A100", {"p4d.24xlarge", "p4de.24xlarge"}),
        ("GPU-H100", {"p5.4xlarge", "p5.48xlarge"}),
        ("GPU-H200", {"p5en.48xlarge", "p5e.48xlarge"}),
        ("GPU-B200", {"p6-b200.48xlarge"}),
        ("GPU-L40", {f"g6e.{size}" for size in ("4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")}),
        ("GPU-A6000", set()),
        ("GPU-RTX4090", set()),
        ("GPU-RTX5090", set()),
    ],
)
def test_each_gpu_type_has_the_instances_that_hold_it_in_full(kind: str, expected: set[str]) -> None:
    """A g6e.xlarge has the GPU of GPU-L40, and a third of the memory that fal gives with it."""
    assert set(names(fitting(kind))) == expected


@pytest.mark.parametrize(
    ("kind", "substitutes", "first"),
    [
        ("GPU-A6000", ("L40S",), "g6e.4xlarge"),
        ("GPU-RTX4090", ("L4",), "g6.4xlarge"),
        ("GPU-RTX4090", ("A10G", "L4"), "g5.4xlarge"),
        ("GPU-RTX5090", ("RTX PRO 4500",), "g7.4xlarge"),
        ("GPU-RTX5090", ("RTX PRO Server 6000",), "g7e.4xlarge"),
        ("GPU-RTX5090", ("A10G",), None),  # 24 GB are less than 32
    ],
)
def test_substitutes_are_taken_only_where_they_are_allowed_and_large_enough(
    kind: str, substitutes: tuple[str, ...], first: str | None
) -> None:
    found = fitting(kind, substitutes=substitutes)
    assert (found[0].offer.name if found else None) == first
    assert all("stands in for" in c.because for c in found)


@pytest.mark.parametrize(
    ("kind", "first"),
    [("XS", "t3.small"), ("S", "t3.small"), ("M", "t3.medium"), ("L", "m7i.xlarge"), ("XL", "m7i.2xlarge")],
)
def test_a_type_without_gpus_gets_a_machine_that_it_fits_on_with_what_the_system_takes(kind: str, first: str) -> None:
    """2 GB do not fit on a machine that is sold with 2 GiB."""
    smallest = min(fitting(kind), key=lambda c: c.offer.slots.total_ram)
    assert smallest.offer.name == first


def test_several_gpus_ask_for_a_machine_that_has_them() -> None:
    assert names(fitting("GPU-H100", gpus=8)) == ["p5.48xlarge"]
    assert fitting("GPU-A100", gpus=8)[0].offer.name == "p4d.24xlarge"
    assert fitting("GPU-H200", gpus=8, number=1)[0].used == 8


def test_a_whole_machine_is_filled_by_eight_runners() -> None:
    for kind in ("GPU-A100", "GPU-H200", "GPU-B200"):
        best = fitting(kind, number=8)[0]
        assert (best.runners, best.used, best.idle) == (8, 8, 0), kind


def test_parts_of_a_gpu_are_no_gpus() -> None:
    """Seen red with a count of 0 read as one: a runner was given an eighth of an L4."""
    part = ec2s_types()["g6f.large"]
    slots = room("us-east", part)
    assert slots.total_gpus == 0 and slots.withheld == ("it has 0.125 of a GPU (L4), and runners get whole ones",)
    t4 = MachineType("GPU-L4", 1, 10**9, "L4", 1)
    offers = offered("us-east", PLACE, [part], [t4], {}, Prices())
    assert choices([Unplaced(Need(("GPU-L4",)), 1, {"GPU-L4": t4})], offers)[0] == []


def test_other_processors_and_metal_are_not_for_sale() -> None:
    all_of = [ec2s_types()[n] for n in ("g5g.xlarge", "g4dn.metal", "g4dn.xlarge")]
    assert [o.name for o in offered("us-east", PLACE, all_of, [], {}, Prices())] == ["g4dn.xlarge"]


def test_a_type_of_a_teams_own_finds_gpus_that_fal_does_not_have() -> None:
    own = {"GPU-T4": MachineType("GPU-T4", 4, 12 * 10**9, "T4", 1, 16 * 10**9)}
    assert fitting("GPU-T4", types=own)[0].offer.name == "g4dn.xlarge"


def test_every_name_is_one_that_ec2_has_and_has_what_it_is_listed_under() -> None:
    types = ec2s_types()
    for gpu, listed in GPUS.items():
        for name in listed:
            found = types[name].gpus
            assert found is not None and found.name == gpu and found.count >= 1, name
    assert all(types[name].gpus is None and types[name].arch == "x86_64" for name in CPU)


def test_room_is_what_the_type_has_less_what_its_system_takes() -> None:
    slots = room("us-east", ec2s_types()["p5.48xlarge"], {"A100"})
    assert (slots.total_vcpu, slots.total_gpus, slots.gpu_name) == (192, 8, "H100")
    assert 0.94 < slots.total_ram / ec2s_types()["p5.48xlarge"].memory < 0.95
    assert slots.strict and slots.stands_in == ("A100",) and slots == replace(slots, free_ram=slots.total_ram)
