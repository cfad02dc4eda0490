"""What keeps a host's GPUs from running apps, out of facts about them. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from falplan.core.hostfacts import Facts, SeenGpu, Smi
from falplan.core.plural import count
from falplan.core.problems import Needs, Problem, error, version_of, warning

OLDEST_DRIVER = "525.60.13"
"""The oldest driver on which programs made with any CUDA 12 run (minor version compatibility), as PyTorch's wheels are:
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""

NOT_EXECUTABLE = 126  # what a shell says of a program that may not be run
NO_DEVICES = 6  # nvidia-smi's status where there is a driver, and nothing that it drives


def gpu_problems(facts: Facts, needs: Needs) -> Iterator[Problem]:
    """In the order in which they have to be put right: without a driver nothing else is known."""
    yield from _permission(facts)
    smi = facts.smi
    if smi is None:
        yield from _no_driver(facts)
    elif smi.code not in (0, NO_DEVICES):
        failed = _failed(facts, smi)
        if not (facts.refused and failed.code == "gpu-permission"):  # told above, with the files
            yield failed
    if smi is None or smi.code not in (0, NO_DEVICES):
        yield from _too_few(facts, needs, 0)
        return
    yield from _lost(facts, smi)
    yield from _too_few(facts, needs, len(smi.gpus))
    yield from _driver(smi)
    yield from _settings(smi)
    yield from _use(smi)


def _failed(facts: Facts, smi: Smi) -> Problem:
    """What nvidia-smi's own words mean, where they are known."""
    said = f"nvidia-smi failed ({smi.code}): {smi.said or 'it said nothing'}"
    low = smi.said.lower()
    if "insufficient permissions" in low:
        return error("gpu-permission", said, "read and write", _advice_on_files(facts))
    if "permission denied" in low or smi.code == NOT_EXECUTABLE:
        advice = "`ls -l $(command -v nvidia-smi) /dev/nvidia*` shows who may; " + _advice_on_files(facts)
        return error("gpu-permission", said, "a user who may run it and use the devices", advice)
    if "version mismatch" in low:
        advice = "the driver was updated and the one in the kernel was not: `sudo reboot`"
    elif "couldn't communicate" in low:
        rebuild = "`sudo dkms autoinstall`, then `sudo reboot`"
        advice = f"its kernel module is not loaded: `sudo modprobe nvidia`; after an update of the kernel: {rebuild}"
    elif "unknown error" in low:
        alone = "on a machine of its own: `sudo dmesg | grep -i nvrm`"
        advice = f"a container lost its devices: start it anew with `--gpus all`; {alone}"
    else:
        advice = "`sudo dmesg | grep -i nvrm` says why; after an update of the kernel or the driver: `sudo reboot`"
    return error("gpu-driver", said, "a driver that works", advice)


def _advice_on_files(facts: Facts) -> str:
    return f"`sudo usermod -aG video,render {facts.user}` there and log in anew, or `sudo chmod 0666 /dev/nvidia*`"


def _permission(facts: Facts) -> Iterator[Problem]:
    if facts.refused:
        yield error(
            "gpu-permission",
            f"{facts.user} may not use {', '.join(facts.refused)}",
            "read and write",
            _advice_on_files(facts),
        )


def _no_driver(facts: Facts) -> Iterator[Problem]:
    if facts.pci:
        yield error(
            "gpu-driver-missing",
            f"{count(len(facts.pci), 'NVIDIA GPU')} on the PCI bus ({', '.join(facts.pci)}), and no nvidia-smi",
            "NVIDIA's driver",
            "`sudo apt-get install nvidia-driver-550-server` (Ubuntu) or as your distribution has it; then `sudo reboot`",
        )


def _lost(facts: Facts, smi: Smi) -> Iterator[Problem]:
    if smi.odd:
        yield error(
            "gpu-lost",
            f"nvidia-smi said: {'; '.join(smi.odd)}",
            "every GPU answers",
            "`sudo reboot`; if it is lost again, look at its power and seat, and at `sudo dmesg | grep -i xid`",
        )
    elif len(facts.pci) > len(smi.gpus):
        yield warning(
            "gpu-missing",
            f"{count(len(facts.pci), 'NVIDIA GPU')} on the PCI bus, {len(smi.gpus)} in nvidia-smi",
            "the driver uses all of them",
            "`sudo dmesg | grep -i nvrm` says why; a container is given devices by whoever starts it (`--gpus all`)",
        )


def _too_few(facts: Facts, needs: Needs, there: int) -> Iterator[Problem]:
    if needs.reserved_gpus > there:
        yield error(
            "gpu-reserve",
            f"{count(there, 'GPU')}",
            f"`reserve: {{gpus: {needs.reserved_gpus}}}` keeps back more than that",
            "put the driver right if GPUs are missing, or lower `reserve.gpus` of the host",
        )
    if needs.gpu_apps and not needs.other_apps and not there and not facts.pci:
        yield warning(
            "gpu-none",
            "no NVIDIA GPU",
            f"all apps of its region ({', '.join(needs.gpu_apps)}) run on GPUs alone",
            "take the host out of the region: nothing will be put on it",
        )


def _driver(smi: Smi) -> Iterator[Problem]:
    old = sorted({g.driver for g in smi.gpus if g.driver and version_of(g.driver) < version_of(OLDEST_DRIVER)})
    if old:
        yield error(
            "gpu-driver-old",
            f"driver {', '.join(old)}",
            f"{OLDEST_DRIVER} or newer, which CUDA 12 needs",
            "`sudo apt-get install nvidia-driver-550-server` (Ubuntu) or as your distribution has it; then `sudo reboot`",
        )


def _settings(smi: Smi) -> Iterator[Problem]:
    divided = [g for g in smi.gpus if g.mig]
    if divided:
        tell = error if len(divided) == len(smi.gpus) else warning
        yield tell(
            "gpu-mig",
            f"MIG is on for {_named(divided)}",
            "whole GPUs: falplan gives out no parts of them, and such GPUs to nobody",
            f"`sudo nvidia-smi -i {_indices(divided)} -mig 0` while nothing uses them",
        )
    erring = [g for g in smi.gpus if g.ecc_errors]
    if erring:
        yield error(
            "gpu-ecc",
            f"memory errors that were not corrected on {_named(erring)}: {', '.join(str(g.ecc_errors) for g in erring)}",
            "none since the driver was loaded",
            f"`sudo nvidia-smi -i {_indices(erring)} --gpu-reset` or a reboot; a GPU that has them again is to be replaced",
        )
    asleep = [g for g in smi.gpus if not g.persistent]
    if asleep:
        yield warning(
            "gpu-persistence",
            f"persistence mode is off for {_named(asleep)}",
            "the driver stays loaded: each first use of a GPU takes seconds otherwise",
            "`sudo systemctl enable --now nvidia-persistenced` there, or `sudo nvidia-smi -pm 1`",
        )
    kinds = list(dict.fromkeys(g.name for g in sorted(smi.gpus, key=lambda g: g.index)))
    if len(kinds) > 1:
        yield warning(
            "gpu-kinds",
            f"GPUs of several kinds: {', '.join(kinds)}",
            f"one kind: only {kinds[0]} is given out",
            "`reserve` does not help; put GPUs of one kind into a machine",
        )


def _use(smi: Smi) -> Iterator[Problem]:
    if smi.processes:
        by_uuid = {g.uuid: g.index for g in smi.gpus}
        told = [f"{p.name or 'a process'} (pid {p.pid}) on GPU {by_uuid.get(p.uuid, p.uuid)}" for p in smi.processes]
        yield warning(
            "gpu-busy",
            "; ".join(told),
            "nobody but runners computes there: such GPUs are not given out",
            f"`kill {' '.join(str(p) for p in sorted({p.pid for p in smi.processes}))}` there if nobody needs them",
        )


def _named(gpus: Iterable[SeenGpu]) -> str:
    return f"GPU {_indices(gpus, ', ')}"


def _indices(gpus: Iterable[SeenGpu], between: str = ",") -> str:
    return between.join(str(g.index) for g in gpus)
