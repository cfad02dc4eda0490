"""What EC2's machines cost, on demand and with Linux: by a list that is a part of falplan, or by a newer one that was fetched here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.core.spending import dollars

from .requests import Disk

NAME = "prices.json"
WHERE = "FALPLAN_AWS_PRICES"
"""Environment variable that names a list in place of the one that was fetched."""


MONTH = 730
"""Hours, as AWS counts a month that volumes are priced by."""
FREE_IOPS, FREE_THROUGHPUT = 3_000, 125
"""What a gp3 volume does without a further price: I/O operations a second, and MiB a second. https://aws.amazon.com/ebs/pricing/"""
DIGITS = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Beside:
    """What a machine has that is billed beside it: USD a month for a GiB of gp3, for an I/O operation a second and a MiB a second of it
    beyond those that are free, and USD an hour for a public address."""

    gib: Decimal
    iops: Decimal
    throughput: Decimal
    address: Decimal

    def of(self, disk: Disk, *, public: bool) -> Decimal:
        """USD an hour for one machine, to a hundredth of a cent."""
        month = disk.size * self.gib
        month += max(0, disk.iops - FREE_IOPS) * self.iops
        month += max(0, disk.throughput - FREE_THROUGHPUT) * self.throughput
        return (month / MONTH + (self.address if public else 0)).quantize(DIGITS)


@dataclass(frozen=True, slots=True)
class Prices:
    """USD an hour by AWS's region and type, and what is billed `beside` that, by region. `collected` is the day that the list was made on,
    as 2026-11-23, `source` what of."""

    table: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    collected: str = ""
    source: str = ""
    beside: Mapping[str, Beside] = field(default_factory=dict)

    def of(self, region: str, kind: str) -> Decimal | None:
        """What a type costs in a region, alone; None if the list does not say."""
        return self.table.get(region, {}).get(kind)

    def more(self, region: str, disk: Disk, *, public: bool) -> More:
        """What a machine costs there beside its type, and how that is told."""
        has = f"a volume of {disk.size} GiB{' and a public address' if public else ''}"
        beside = self.beside.get(region)
        if beside is None:
            return More(Decimal(0), f"{has} are not in the price" if public else f"{has} is not in the price")
        cost = beside.of(disk, public=public)
        return More(cost, f"{dollars(cost)} of that for {has}")


@dataclass(frozen=True, slots=True)
class More:
    """USD an hour that come to the price of a type; `remark` says what for, or what is not in it."""

    cost: Decimal = Decimal(0)
    remark: str = ""


NOTHING_MORE = More()


def current(environ: Mapping[str, str] = os.environ) -> Prices:
    """The list that counts here: the one that was fetched, or else the one that came with this falplan; none if there is neither.

    Raises:
        FalplanError: it can't be read.
    """
    path = fetched(environ)
    if path.exists():
        try:
            return read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as exc:
            raise FalplanError(
                "The list of AWS prices can't be read", f"{path}: {exc}. Remove it, or fetch it anew."
            ) from exc
    own = resources.files(__package__).joinpath(NAME)
    return read(own.read_text(encoding="utf-8")) if own.is_file() else Prices()


def fetched(environ: Mapping[str, str]) -> Path:
    """Where a list lies that was fetched."""
    if environ.get(WHERE):
        return Path(environ[WHERE])
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path("~/.local/share").expanduser()) / "falplan" / "aws" / NAME


def keep(text: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Put a list where it counts from now on; whole or not at all."""
    path = fetched(environ)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    return path


def read(text: str) -> Prices:
    """A list as JSON: `{"collected": …, "source": …, "usd_an_hour": {region: {type: "1.006"}}, "beside": {region: {"gib_month": …}}}`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, InvalidOperation: it is none.
    """
    body = json.loads(text)
    table = {
        region: {kind: Decimal(price) for kind, price in kinds.items()} for region, kinds in body["usd_an_hour"].items()
    }
    beside = {
        region: Beside(
            *(Decimal(told[name]) for name in ("gib_month", "iops_month", "throughput_month", "address_hour"))
        )
        for region, told in body.get("beside", {}).items()
    }
    return Prices(table, str(body["collected"]), str(body["source"]), beside)
