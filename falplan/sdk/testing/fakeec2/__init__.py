"""A server that speaks EC2's API to boto3, and is as nasty as EC2: for tests of whatever launches machines.

    with fake_ec2() as fake:
        ec2 = boto3.client("ec2", endpoint_url=fake.url, region_name="us-east-1", **fake.credentials)
        fake.account.capacity["p5.48xlarge", "use1-az6", "on-demand"] = 0
        fake.account.faults.append(Fault("RunInstances", Strike.DONE_DROP))

Beside EC2 it is STS, IAM, SSM's parameters, Service Quotas and the Price List API of the same account, at the same URL.

Time is virtual (`account.advance`). It has client tokens as EC2 has them (for each zone, with expiry and mismatches), visibility lag,
capacity by pool, quotas, throttling, credentials that expire or may not, answers that get lost after the work was done, a billing meter
and a detector of two machines for one thing. Requests and answers are read and written by botocore's own models.
"""

from falplan.sdk.testing.fakeec2.account import Account, Call, Delays
from falplan.sdk.testing.fakeec2.catalog import Catalog, GpuKind, Image, InstanceType, Zone
from falplan.sdk.testing.fakeec2.faults import Bucket, Credential, Fault, Strike
from falplan.sdk.testing.fakeec2.principals import Profile, Role
from falplan.sdk.testing.fakeec2.server import FakeEc2, fake_ec2
from falplan.sdk.testing.fakeec2.things import Address, Instance, Reservation, Thing

__all__ = [
    "Account",
    "Address",
    "Bucket",
    "Call",
    "Catalog",
    "Credential",
    "Delays",
    "FakeEc2",
    "Fault",
    "GpuKind",
    "Image",
    "Instance",
    "InstanceType",
    "Profile",
    "Reservation",
    "Role",
    "Strike",
    "Thing",
    "Zone",
    "fake_ec2",
]
