"""Service Quotas: how many vCPUs and addresses the account may have, by the codes that AWS gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import slice_of
from falplan.sdk.testing.fakeec2.wire import Ec2Error

SERVICE = "ec2"
BOUNDLESS = 100_000
"""vCPUs that AWS gives to everybody, it says: without a quota of the account's own, the fake launches any number."""


@dataclass(frozen=True, slots=True)
class _Quota:
    """`counts` is what the account's quotas call it; None: addresses."""

    name: str
    usage: str
    counts: tuple[str, str] | None


QUOTAS: Mapping[str, _Quota] = {
    "L-0263D0A3": _Quota("EC2-VPC Elastic IPs", "", None),
    "L-1216C47A": _Quota(
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
        "Standard/OnDemand",
        ("Standard", "on-demand"),
    ),
    "L-34B43A08": _Quota(
        "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", "Standard/Spot", ("Standard", "spot")
    ),
    "L-3819A6DF": _Quota("All G and VT Spot Instance Requests", "G/Spot", ("G", "spot")),
    "L-417A185B": _Quota("Running On-Demand P instances", "P/OnDemand", ("P", "on-demand")),
    "L-7212CCBC": _Quota("All P4, P3 and P2 Spot Instance Requests", "P/Spot", ("P", "spot")),
    "L-C4BD4855": _Quota("All P5 Spot Instance Requests", "P5/Spot", ("P", "spot")),
    "L-DB2E81BA": _Quota("Running On-Demand G and VT instances", "G/OnDemand", ("G", "on-demand")),
}
"""By code. The fake counts all spot instances of P together."""


def get_service_quota(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetServiceQuota: only what was ever set for the account."""
    code = _known(p)
    value = _applied(account, code)
    if value is None:
        raise Ec2Error("NoSuchResourceException", "The request failed because the specified quota has no value here.")
    return {"Quota": _told(account, code, value)}


def get_default_service_quota(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetAWSDefaultServiceQuota."""
    code = _known(p)
    return {"Quota": _told(account, code, 5 if QUOTAS[code].counts is None else BOUNDLESS)}


def list_service_quotas(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListServiceQuotas: those that were ever set for the account."""
    if p["ServiceCode"] != SERVICE:
        raise Ec2Error("NoSuchResourceException", "The request failed because the specified service does not exist.")
    values = {code: _applied(account, code) for code in QUOTAS}
    found = [_told(account, code, value) for code, value in values.items() if value is not None]
    wrong = Ec2Error("InvalidPaginationTokenException", "Invalid pagination token.")
    shown, token = slice_of(found, p.get("MaxResults", 100), p.get("NextToken"), wrong)
    return {"Quotas": list(shown), "NextToken": token}


def _known(p: Mapping[str, Any]) -> str:
    code = str(p["QuotaCode"])
    if p["ServiceCode"] != SERVICE or code not in QUOTAS:
        words = "The request failed because the specified service quota does not exist."
        raise Ec2Error("NoSuchResourceException", words)
    return code


def _applied(account: Account, code: str) -> int | None:
    counts = QUOTAS[code].counts
    return account.most_addresses if counts is None else account.quotas.get(counts)


def _told(account: Account, code: str, value: int) -> dict[str, Any]:
    quota, region = QUOTAS[code], account.catalog.region
    dimensions = {"Class": quota.usage, "Resource": "vCPU", "Service": "EC2", "Type": "Resource"}
    metric = {
        "MetricNamespace": "AWS/Usage",
        "MetricName": "ResourceCount",
        "MetricDimensions": dimensions,
        "MetricStatisticRecommendation": "Maximum",
    }
    return {
        "ServiceCode": SERVICE,
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{account.owner}:{SERVICE}/{code}",
        "QuotaCode": code,
        "QuotaName": quota.name,
        "Value": float(value),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
        **({"UsageMetric": metric} if quota.usage else {}),
    }
