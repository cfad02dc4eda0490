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

NAME = "prices.json"
WHERE = "FALPLAN_AWS_PRICES"
"""Environment variable that names a list in place of the one that was fetched."""


@dataclass(frozen=True, slots=True)
class Prices:
    """USD an hour by AWS's region and type. `collected` is the day that the list was made on, as 2026-11-23, `source` what of."""

    table: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    collected: str = ""
    source: str = ""

    def of(self, region: str, kind: str) -> Decimal | None:
        """What a type costs in a region; None if the list does not say."""
        return self.table.get(region, {}).get(kind)


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
    """A list as JSON: `{"collected": …, "source": …, "usd_an_hour": {region: {type: "1.006"}}}`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, InvalidOperation: it is none.
    """
    body = json.loads(text)
    table = {
        region: {kind: Decimal(price) for kind, price in kinds.items()} for region, kinds in body["usd_an_hour"].items()
    }
    return Prices(table, str(body["collected"]), str(body["source"]))
