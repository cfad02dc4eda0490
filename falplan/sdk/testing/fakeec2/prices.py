"""The Price List API: what instance types cost, among much that costs something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import slice_of
from falplan.sdk.testing.fakeec2.catalog import InstanceType
from falplan.sdk.testing.fakeec2.wire import Ec2Error

REGIONS = frozenset({"us-east-1", "eu-central-1", "ap-south-1"})
"""Where it can be asked, about all regions."""
PUBLISHED = "2026-05-20T17:05:11Z"
TERM, RATE = "JRTCKXETXF", "6YS6EN2CT7"
"""AWS's codes of on-demand terms, and of a price for each hour."""
LOCATIONS: Mapping[str, str] = {
    "us-east-1": "US East (N. Virginia)",
    "us-east-2": "US East (Ohio)",
    "us-west-2": "US West (Oregon)",
    "eu-central-1": "EU (Frankfurt)",
    "eu-west-1": "EU (Ireland)",
}


@dataclass(frozen=True, slots=True)
class _Variant:
    """One of the things that AWS sells a type as. It costs `times` the price of the type, and `more` for each vCPU."""

    attributes: Mapping[str, str]
    times: Decimal = Decimal(1)
    more: Decimal = Decimal(0)


PLAIN: Mapping[str, str] = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
    "licenseModel": "No License required",
    "operation": "RunInstances",
}
VARIANTS = (
    _Variant({"capacitystatus": "AllocatedCapacityReservation"}, times=Decimal(0)),
    _Variant({"capacitystatus": "UnusedCapacityReservation"}),
    _Variant({"marketoption": "CapacityBlock", "operation": "RunInstances:CB"}, times=Decimal(0)),
    _Variant({"tenancy": "Dedicated"}, times=Decimal("1.06")),
    _Variant({"operatingSystem": "Windows", "operation": "RunInstances:0002"}, more=Decimal("0.046")),
    _Variant({"preInstalledSw": "SQL Std", "operation": "RunInstances:0004"}, more=Decimal("0.12")),
    _Variant({}),
)
"""Who filters too little gets others first, some of which cost nothing."""


def get_products(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetProducts, of service `AmazonEC2`, with filters of terms alone."""
    if p["ServiceCode"] != "AmazonEC2":
        raise Ec2Error("NotFoundException", f"No products of {p['ServiceCode']} were found")
    filters = p.get("Filters", ())
    if any(one["Type"] != "TERM_MATCH" for one in filters):
        raise Ec2Error("InvalidParameterException", "This fake has filters of type TERM_MATCH alone")
    found = [
        product
        for product in _products(account)
        if all(_told(product).get(one["Field"]) == one["Value"] for one in filters)
    ]
    wrong = Ec2Error("InvalidNextTokenException", "The next token is invalid")
    shown, token = slice_of(found, p.get("MaxResults", 100), p.get("NextToken"), wrong)
    return {"FormatVersion": "aws_v1", "PriceList": [json.dumps(one) for one in shown], "NextToken": token}


def _told(product: Mapping[str, Any]) -> dict[str, str]:
    """What filters look at."""
    inner = product["product"]
    return {"productFamily": inner["productFamily"], "sku": inner["sku"], **inner["attributes"]}


def _products(account: Account) -> Iterator[dict[str, Any]]:
    for kind in account.catalog.types:
        for variant in VARIANTS:
            attributes = {**_attributes(account, kind), **PLAIN, **variant.attributes}
            yield _product(attributes, kind.price * variant.times + kind.vcpu * variant.more)


def _attributes(account: Account, kind: InstanceType) -> dict[str, str]:
    region = account.catalog.region
    gpus = (
        {"gpu": str(kind.gpu.count), "gpuMemory": f"{kind.gpu.memory * kind.gpu.count // 1024} GB"} if kind.gpu else {}
    )
    return {
        "servicecode": "AmazonEC2",
        "servicename": "Amazon Elastic Compute Cloud",
        "instanceType": kind.name,
        "currentGeneration": "Yes",
        "regionCode": region,
        "location": LOCATIONS.get(region, region),
        "locationType": "AWS Region",
        "vcpu": str(kind.vcpu),
        "memory": f"{kind.memory // 1024} GiB",
        "usagetype": f"BoxUsage:{kind.name}",
        **gpus,
    }


def _product(attributes: dict[str, str], price: Decimal) -> dict[str, Any]:
    seal = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()
    sku = seal[:16].upper()
    rate = f"{sku}.{TERM}.{RATE}"
    words = f"${price} per {attributes['operatingSystem']} {attributes['instanceType']} instance hour"
    dimension = {
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": words,
        "appliesTo": [],
        "rateCode": rate,
        "pricePerUnit": {"USD": f"{price:.10f}"},
    }
    term = {
        "priceDimensions": {rate: dimension},
        "sku": sku,
        "effectiveDate": "2026-05-01T00:00:00Z",
        "offerTermCode": TERM,
        "termAttributes": {},
    }
    return {
        "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": sku},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {f"{sku}.{TERM}": term}},
        "version": "20260520170511",
        "publicationDate": PUBLISHED,
    }
