"""fal's table of machine types. Knows nothing of the machines that are there."""

from __future__ import annotations

from falplan.core.spec.resolved import MachineType

MB = 1_000_000
GB = 1_000_000_000


def _cpu(name: str, vcpu: float, ram: int) -> MachineType:
    return MachineType(name, vcpu, ram)


def _gpu(name: str, vcpu: float, ram: int, vram: int) -> MachineType:
    return MachineType("GPU-" + name, vcpu, ram * GB, name, 1, vram * GB)


BUILT_IN: dict[str, MachineType] = {
    m.name: m
    for m in (
        _cpu("XS", 0.5, 512 * MB),
        _cpu("S", 1, 1 * GB),
        _cpu("M", 2, 2 * GB),
        _cpu("L", 4, 15 * GB),
        _cpu("XL", 8, 30 * GB),
        _gpu("RTX4090", 12, 48, 24),
        _gpu("RTX5090", 14, 60, 32),
        _gpu("A100", 12, 60, 40),
        _gpu("A6000", 10, 18, 48),
        _gpu("L40", 6, 100, 48),
        _gpu("H100", 12, 112, 80),
        _gpu("H200", 12, 112, 141),
        _gpu("B200", 19, 210, 192),
    )
}
"""name -> sizes for one GPU; `num_gpus` multiplies them. Sizes are decimal, as fal writes them."""
