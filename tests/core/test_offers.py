"""Which machine is bought: what is used of it decides, and every reason is told."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from falplan.core.offers import Offered, Unplaced, as_sold, choices, disappoints
from falplan.core.placement import GIB, Need, Placed, Slots, is_gpu, place
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.spec.resolved import MachineType

MIB = 1024**2


def offer(name: str, vcpu: int, gib: int, gpu: tuple[str, int, int] | None = None, price: str | None = "1") -> Offered:
    kind, gpus, vram = gpu or ("", 0, 0)
    room = Slots(
        name,
        "us-east",
        vcpu,
        gib * GIB,
        vcpu,
        gib * GIB,
        gpus,
        tuple(range(gpus)),
        kind,
        vram * MIB,
        strict=True,
    )
    return Offered(name, room, Decimal(price) if price else None)


ONE = offer("p5.4xlarge", 16, 250, ("H100", 1, 81920), "6.88")
EIGHT = offer("p5.48xlarge", 192, 2000, ("H100", 8, 81920), "55.04")
A100 = offer("p4d.24xlarge", 96, 1100, ("A100", 8, 40960), "21.96")
L40S = offer("g6e.4xlarge", 16, 120, ("L40S", 1, 45776), "3.00")
SMALL = offer("m7i.large", 2, 7, None, "0.1")
LARGE = offer("m7i.4xlarge", 16, 60, None, "0.8")


def wants(kinds: str | tuple[str, ...], number: int, gpus: int | None = None) -> Unplaced:
    return Unplaced(Need((kinds,) if isinstance(kinds, str) else kinds, gpus), number, BUILT_IN)


def h100(number: int, gpus: int | None = None) -> Unplaced:
    return wants("GPU-H100", number, gpus)


def names(unplaced: list[Unplaced], *offers: Offered) -> list[str]:
    return [c.offer.name for c in choices(unplaced, offers)[0]]


@pytest.mark.parametrize(
    ("unplaced", "expected"),
    [
        (h100(1), ["p5.4xlarge", "p5.48xlarge"]),
        (h100(7), ["p5.4xlarge", "p5.48xlarge"]),  # 6.88 a GPU, and 7.86
        (h100(8), ["p5.4xlarge", "p5.48xlarge"]),  # as dear: the smaller one is not idle if less is unplaced later
        (h100(1, gpus=2), ["p5.48xlarge"]),
    ],
)
def test_what_is_used_decides_and_not_what_there_is(unplaced: Unplaced, expected: list[str]) -> None:
    assert names([unplaced], EIGHT, ONE) == expected


def test_a_large_machine_that_costs_less_for_what_it_holds_is_bought() -> None:
    """Seen red with the price of a machine divided by all of its GPUs: one runner got the machine with eight."""
    cheap = replace(EIGHT, price=Decimal(40))
    assert names([h100(1)], cheap, ONE) == ["p5.4xlarge", "p5.48xlarge"]
    assert names([h100(8)], cheap, ONE) == ["p5.48xlarge", "p5.4xlarge"]
    dear = replace(ONE, price=Decimal("9"))
    assert names([h100(8)], dear, EIGHT) == ["p5.48xlarge", "p5.4xlarge"]
    assert names([h100(6)], dear, EIGHT) == ["p5.4xlarge", "p5.48xlarge"]  # 9 and 9.17


def test_others_that_wait_fill_a_machine_too() -> None:
    """One runner alone would leave three quarters of it idle: those of other apps are counted."""
    four = offer("g6e.12xlarge", 48, 380, ("L40S", 4, 45776), "10.49")
    first = wants("GPU-L40", 1)
    assert names([first], four, L40S) == ["g6e.4xlarge", "g6e.12xlarge"]

    found, _ = choices([first, wants("GPU-L40", 2)], [four, L40S])
    assert [(c.offer.name, c.runners, c.used, c.idle) for c in found] == [
        ("g6e.4xlarge", 1, 1, 0),
        ("g6e.12xlarge", 3, 3, 1),
    ]
    assert names([first, wants("GPU-L40", 2)], replace(four, price=Decimal("8.40")), L40S)[0] == four.name


def test_what_an_app_prefers_comes_before_what_is_cheaper() -> None:
    both = wants(("GPU-H100", "GPU-A100"), 8)
    assert names([both], A100, EIGHT) == ["p5.48xlarge", "p4d.24xlarge"]


def test_a_stand_in_comes_last_and_says_so_and_only_where_it_is_allowed() -> None:
    """No GPU is ever replaced silently."""
    unplaced = [wants("GPU-A6000", 1)]
    found, refused = choices(unplaced, [L40S])
    assert found == [] and refused == ["g6e.4xlarge: GPU-A6000 does not fit: it needs A6000, the machine has L40S"]

    allowed = replace(L40S, slots=replace(L40S.slots, stands_in=("A6000",)))
    real = offer("own", 16, 120, ("RTX A6000", 1, 49140), "9")
    found, _ = choices(unplaced, [allowed, real])
    assert [c.offer.name for c in found] == ["own", "g6e.4xlarge"]
    assert "L40S stands in for A6000" in found[1].because and "stands in" not in found[0].because
    placed = place(unplaced[0].need, [allowed.slots], BUILT_IN)
    assert isinstance(placed, Placed) and placed.because.endswith("where L40S stands in for A6000")


def test_a_stand_in_needs_as_much_memory() -> None:
    l4 = offer("g6.4xlarge", 16, 60, ("L4", 1, 22888))
    allowed = replace(l4, slots=replace(l4.slots, stands_in=("A6000",)))
    assert names([wants("GPU-A6000", 1)], allowed) == []


def test_kinds_of_unknown_price_come_last() -> None:
    assert names([h100(1)], replace(ONE, price=None), EIGHT) == ["p5.48xlarge", "p5.4xlarge"]


def test_without_gpus_the_price_of_a_used_vcpu_decides() -> None:
    tiny = [wants("M", 1)]
    many = [wants("M", 8)]
    assert names(tiny, LARGE, SMALL) == ["m7i.large", "m7i.4xlarge"]
    cheaper = replace(LARGE, price=Decimal("0.7"))
    assert names(many, cheaper, SMALL) == ["m7i.4xlarge", "m7i.large"]


def test_the_reason_names_price_use_and_waste() -> None:
    [best, worse], _ = choices([h100(1)], [EIGHT, ONE])
    assert best.because == (
        "p5.4xlarge holds 1 runner on GPU-H100, 1 of 1 GPU used, $6.88/h, $6.88 for each GPU that is used"
    )
    assert worse.because == (
        "p5.48xlarge holds 1 runner on GPU-H100, 1 of 8 GPUs used, $55.04/h, $55.04 for each GPU that is used, "
        "$48.16 of that for 7 GPUs without a runner"
    )


@pytest.mark.parametrize(
    ("gpu", "found", "same"),
    [
        ("A100", "NVIDIA A100-SXM4-40GB", True),
        ("A10", "NVIDIA A100-SXM4-40GB", False),
        ("A10", "A10G", True),
        ("L4", "L40S", False),
        ("L4", "NVIDIA L4", True),
        ("L40", "NVIDIA L40S", True),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("H100", "", False),
    ],
)
def test_a_digit_more_is_another_gpu(gpu: str, found: str, same: bool) -> None:
    """Seen red with names that were looked for as a part of others: runners on an L4 were put on an L40S, those on an A10 on an A100."""
    kind = MachineType(f"GPU-{gpu}", 1, GIB, gpu, 1, 0)
    assert is_gpu(kind, Slots("m", "r", 8, 8 * GIB, 8, 8 * GIB, 1, (0,), found)) is same


def test_a_machine_is_used_as_it_was_sold_though_its_driver_says_it_in_other_words() -> None:
    sold = replace(offer("g7e.2xlarge", 8, 64, ("RTX PRO Server 6000", 1, 97887)).slots, stands_in=("RTX5090",))
    seen = replace(sold, gpu_name="NVIDIA RTX PRO 6000 Blackwell Server Edition", strict=False, stands_in=())

    found = as_sold(seen, sold)

    assert (found.gpu_name, found.strict, found.stands_in) == ("RTX PRO Server 6000", True, ("RTX5090",))


def test_a_machine_with_less_than_it_is_sold_with_disappoints_those_that_it_was_for() -> None:
    """Seen red with a machine whose driver showed no GPU: another one of its kind was bought, and another."""
    sold = offer("p5.4xlarge", 16, 250, ("H100", 1, 81920)).slots
    nothing = replace(sold, total_gpus=0, gpus=(), gpu_name="")

    assert disappoints(h100(1), sold, sold) == ""
    assert disappoints(h100(1, gpus=8), nothing, sold) == "", "it never was to hold that"
    assert disappoints(h100(1), nothing, sold).startswith("p5.4xlarge: GPU-H100 does not fit")
    assert disappoints(h100(1), replace(nothing, unknown="it does not answer"), sold) == ""
