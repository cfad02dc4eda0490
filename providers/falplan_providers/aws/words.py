"""Why a pool is not asked, as it is told: with when that was, and the command that helps where one does."""

from __future__ import annotations

import re
from collections.abc import Callable

from falplan.sdk.launches import Pool, Verdict

from .quotas import way_out


def why(pool: Pool, verdict: Verdict, ago: float, said: str, place: str, vcpus: Callable[[str], int]) -> str:
    """`ago` is the seconds since AWS answered `said`; `place` is AWS's name of the region.

    `vcpus` tells what a type has, 0 if nobody knows.
    """
    when = _ago(ago)
    match verdict:
        case Verdict.CAPACITY:
            return f"{pool}: no capacity {when}"
        case Verdict.NOT_OFFERED:
            return f"{pool}: this type is not offered there"
        case Verdict.QUOTA:
            needed, limit = vcpus(pool.offer), _limit(said)
            of = f" of {limit} vCPU" if limit is not None else ""
            if not needed:
                return f"{pool}: the account's quota{of} allowed no more {when}"
            ask = way_out(pool.offer, pool.market, place, needed + (limit or 0))
            return f"{pool}: the account's quota{of} allowed no {needed} vCPU more {when}; to ask for more: {ask}"
        case _:
            return f"{pool}: {said} {when}"


def _limit(said: str) -> int | None:
    """The quota, where EC2 names it: "your current vCPU limit of 64"."""
    found = re.search(r"limit of (\d+)", said)
    return int(found[1]) if found else None


def _ago(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    minutes = round(seconds / 60)
    return f"{minutes} min ago"
