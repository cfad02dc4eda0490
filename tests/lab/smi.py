"""An nvidia-smi for machines without GPUs: a program that answers as the real one does, out of a file beside it that tests may change.

Statuses, messages and forms are those of NVIDIA's: 6 without devices, 9 without a driver, 2 for a field that it does not know.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "gpus.json"
H100 = ("NVIDIA H100 80GB HBM3", 81559)
A100 = ("NVIDIA A100-SXM4-80GB", 81920)
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)
LOST = "Unable to determine the device handle for GPU{0}: {1}: GPU is lost.  Reboot the system to recover this GPU"


def gpus(*kinds: tuple[tuple[str, int], int], **more: Any) -> list[dict[str, Any]]:
    """`gpus((A100, 4), (H100, 2))`: six GPUs. `more` goes for each: `mig`, `driver`, `persistent`, `ecc`, `lost`."""
    every = [kind for kind, number in kinds for _ in range(number)]
    return [{"index": i, "name": name, "vram": vram, **more} for i, (name, vram) in enumerate(every)]


def install(
    folder: Path, gpus: Sequence[Mapping[str, Any]] = (), *, fails: str = "", processes: Sequence[Sequence[Any]] = ()
) -> Path:
    """Put the program into a folder, which is to be on a machine's path; or change what it answers.

    `fails`: its driver does not answer, with this message. `processes` are (index, pid, name) of who computes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nvidia-smi"
    if not program.exists():
        program.write_text(f"#!{Path(sys.executable).resolve()} -ISB\n" + Path(__file__).read_text())
        program.chmod(0o755)
    body = {"gpus": [dict(g) for g in gpus], "fails": fails, "processes": [list(p) for p in processes]}
    temporary = folder / f"{FILE}.new"
    temporary.write_text(json.dumps(body))
    temporary.replace(folder / FILE)
    return program


def main(arguments: Sequence[str], told: Mapping[str, Any]) -> int:
    if told["fails"]:
        print(told["fails"] + "\n")
        return 9
    if not told["gpus"]:
        print("No devices were found")
        return 6
    options = dict(a.partition("=")[::2] for a in arguments if a.startswith("--"))
    chosen = arguments[arguments.index("-i") + 1].split(",") if "-i" in arguments else None
    found = [g for g in told["gpus"] if chosen is None or str(g["index"]) in chosen or uuid_of(g) in chosen]
    if "-L" in arguments:
        for gpu in found:
            print(f"GPU {gpu['index']}: {gpu['name']} (UUID: {uuid_of(gpu)})")
        return 0
    if "--query-compute-apps" in options:
        by_index = {g["index"]: uuid_of(g) for g in told["gpus"]}
        rows = [{"gpu_uuid": by_index[i], "pid": str(pid), "process_name": name} for i, pid, name in told["processes"]]
        return print_rows(options["--query-compute-apps"].split(","), rows)
    return print_rows(options.get("--query-gpu", "index").split(","), [row_of(g) for g in found])


def print_rows(fields: Sequence[str], rows: Sequence[Mapping[str, str]]) -> int:
    for row in rows:
        unknown = [f for f in fields if f not in row]
        if row.get("lost"):
            print(row["lost"])
        elif unknown:
            print(f'Field "{unknown[0]}" is not a valid field to query.\n')
            return 2
        else:
            print(", ".join(row[f] for f in fields))
    return 0


def row_of(gpu: Mapping[str, Any]) -> dict[str, str]:
    bus = f"00000000:{0x10 + gpu['index']:02X}:00.0"
    row = {
        "index": str(gpu["index"]),
        "uuid": uuid_of(gpu),
        "name": gpu["name"],
        "memory.total": f"{gpu['vram']} MiB",
        "driver_version": gpu.get("driver", "550.127.08"),
        "pci.bus_id": bus,
        "mig.mode.current": "Enabled" if gpu.get("mig") else "Disabled",
        "persistence_mode": "Enabled" if gpu.get("persistent", True) else "Disabled",
        "ecc.errors.uncorrected.volatile.total": str(gpu.get("ecc", 0)),
    }
    if gpu.get("lost"):
        row["lost"] = LOST.format(gpu["index"], bus)
    return row


def uuid_of(gpu: Mapping[str, Any]) -> str:
    return f"GPU-00000000-0000-0000-0000-{gpu['index']:012d}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], json.loads((Path(__file__).parent / FILE).read_text())))
