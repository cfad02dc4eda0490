"""EC2's quotas on vCPUs: which one counts a type, and how more is asked for. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping

CODES: Mapping[tuple[str, str], str] = {
    ("P", "on-demand"): "L-417A185B",
    ("G and VT", "on-demand"): "L-DB2E81BA",
    ("Standard", "on-demand"): "L-1216C47A",
    ("P4, P3 and P2", "spot"): "L-7212CCBC",
    ("P5", "spot"): "L-C4BD4855",
    ("G and VT", "spot"): "L-3819A6DF",
    ("Standard", "spot"): "L-34B43A08",
}
"""(family, market) -> the quota's code. Those that are not here have to be looked up by name."""


def family_of(instance_type: str, market: str) -> str:
    """Which types share a quota with this one in a market: `P`, `G and VT`, `Standard`; others by their own letters, as `Trn`."""
    letters = re.match(r"[a-z]+", instance_type)
    word = letters.group() if letters else ""
    if word.startswith("p"):
        return _spot_p(instance_type) if market == "spot" else "P"
    if word.startswith(("g", "vt")):
        return "G and VT"
    if word[:1] in tuple("acdhimrtz") and word not in ("trn", "inf", "dl", "hpc", "mac"):
        return "Standard"
    return word.capitalize()


def _spot_p(instance_type: str) -> str:
    number = re.match(r"p(\d+)", instance_type)
    generation = int(number.group(1)) if number else 0
    return f"P{generation}" if generation >= 5 else "P4, P3 and P2"


def way_out(instance_type: str, market: str, region: str, vcpus: int) -> str:
    """The command that asks for a quota of so many vCPUs; if its code is not known, the one that lists them."""
    code = CODES.get((family_of(instance_type, market), market))
    if code is None:
        return f"aws service-quotas list-service-quotas --region {region} --service-code ec2"
    asked = f"--service-code ec2 --quota-code {code} --desired-value {vcpus}"
    return f"aws service-quotas request-service-quota-increase --region {region} {asked}"
