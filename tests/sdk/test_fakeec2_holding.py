"""What the fake account's EC2 has beside machines: addresses and reserved capacity, which cost money, and consoles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

from falplan.sdk.testing.fakeec2 import Account, Delays, FakeEc2, Instance, fake_ec2

from .aws import IMAGE, client, launch, refused

HOUR = 3600


@pytest.fixture
def fake() -> Iterator[FakeEc2]:
    with fake_ec2() as made:
        yield made


# -- addresses --------------------------------------------------------------------------------------------------------------


def an_address(ec2: Any, owner: str = "mine") -> str:
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "owner", "Value": owner}]}]
    return str(ec2.allocate_address(Domain="vpc", TagSpecifications=tags)["AllocationId"])


def shown(ec2: Any, instance: str) -> str:
    told = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    return str(told.get("PublicIpAddress", ""))


def a_running_one(fake: FakeEc2, ec2: Any) -> str:
    made = launch(ec2)
    fake.account.advance(20)
    return made


def test_an_address_costs_until_it_is_released(fake: FakeEc2) -> None:
    ec2 = client(fake)
    made = an_address(ec2)
    fake.account.advance(10 * HOUR)
    ec2.release_address(AllocationId=made)
    fake.account.advance(HOUR)

    assert fake.account.bill() == Decimal("0.05")
    assert ec2.describe_addresses()["Addresses"] == []
    assert refused(ec2.release_address, AllocationId=made) == "InvalidAllocationID.NotFound"


def test_addresses_are_found_by_their_tags(fake: FakeEc2) -> None:
    ec2 = client(fake)
    mine, other = an_address(ec2), an_address(ec2, "other")
    found = ec2.describe_addresses(Filters=[{"Name": "tag:owner", "Values": ["mine"]}])["Addresses"]

    assert [a["AllocationId"] for a in found] == [mine]
    assert found[0]["Tags"] == [{"Key": "owner", "Value": "mine"}]
    ec2.create_tags(Resources=[other], Tags=[{"Key": "owner", "Value": "mine"}])
    listed = ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["elastic-ip"]}])["Tags"]
    assert [row["Value"] for row in listed] == ["mine", "mine"]


def test_an_address_is_an_instances_until_that_is_terminated(fake: FakeEc2) -> None:
    ec2 = client(fake)
    address, instance = an_address(ec2), a_running_one(fake, ec2)
    before = shown(ec2, instance)
    first = ec2.associate_address(AllocationId=address, InstanceId=instance)["AssociationId"]
    again = ec2.associate_address(AllocationId=address, InstanceId=instance)["AssociationId"]
    [told] = ec2.describe_addresses(Filters=[{"Name": "instance-id", "Values": [instance]}])["Addresses"]

    assert first == again == told["AssociationId"]
    assert shown(ec2, instance) == told["PublicIp"] != before
    assert refused(ec2.release_address, AllocationId=address) == "InvalidIPAddress.InUse"
    ec2.terminate_instances(InstanceIds=[instance])
    fake.account.advance(30)
    assert "InstanceId" not in ec2.describe_addresses()["Addresses"][0]
    ec2.release_address(AllocationId=address)


def test_an_address_is_given_by_a_network_interface_too(fake: FakeEc2) -> None:
    ec2 = client(fake)
    address, instance = an_address(ec2), a_running_one(fake, ec2)
    [told] = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    card = told["NetworkInterfaces"][0]["NetworkInterfaceId"]
    ec2.associate_address(AllocationId=address, NetworkInterfaceId=card)

    assert [a["InstanceId"] for a in ec2.describe_addresses()["Addresses"]] == [instance]


def test_an_address_is_taken_from_another_only_where_that_is_allowed(fake: FakeEc2) -> None:
    ec2 = client(fake)
    address, one, other = an_address(ec2), launch(ec2), a_running_one(fake, ec2)
    ec2.associate_address(AllocationId=address, InstanceId=one)
    asked = {"AllocationId": address, "InstanceId": other}

    assert refused(ec2.associate_address, **asked, AllowReassociation=False) == "Resource.AlreadyAssociated"
    assert refused(ec2.associate_address, **asked) == "Resource.AlreadyAssociated"
    ec2.associate_address(**asked, AllowReassociation=True)
    assert [a["InstanceId"] for a in ec2.describe_addresses()["Addresses"]] == [other]


def test_an_address_that_is_taken_away_can_be_released(fake: FakeEc2) -> None:
    ec2 = client(fake)
    address, instance = an_address(ec2), a_running_one(fake, ec2)
    made = ec2.associate_address(AllocationId=address, InstanceId=instance)["AssociationId"]
    ec2.disassociate_address(AssociationId=made)
    ec2.release_address(AllocationId=address)

    assert refused(ec2.disassociate_address, AssociationId=made) == "InvalidAssociationID.NotFound"


def test_an_address_needs_a_machine_that_runs_and_an_account_has_few(fake: FakeEc2) -> None:
    ec2 = client(fake)
    addresses = [an_address(ec2) for _ in range(5)]
    instance = launch(ec2)

    assert refused(ec2.associate_address, AllocationId=addresses[0], InstanceId=instance) == "InvalidInstanceID"
    assert refused(ec2.associate_address, AllocationId=addresses[0]) == "MissingParameter"
    assert refused(ec2.associate_address, AllocationId="eipalloc-0", InstanceId=instance) == (
        "InvalidAllocationID.NotFound"
    )
    assert refused(ec2.allocate_address) == "AddressLimitExceeded"
    assert refused(ec2.describe_addresses, PublicIps=["192.0.2.200"]) == "InvalidAddress.NotFound"
    ec2.release_address(AllocationId=addresses[0])
    an_address(ec2)


# -- reserved capacity --------------------------------------------------------------------------------------------------------

P5 = "p5.48xlarge"
PRICE = Decimal("55.04")


def reserve(ec2: Any, **more: Any) -> str:
    zone = {} if "AvailabilityZone" in more else {"AvailabilityZoneId": "use1-az6"}
    asked = {"InstanceType": P5, "InstancePlatform": "Linux/UNIX", "InstanceCount": 2, **zone, **more}
    made = ec2.create_capacity_reservation(**{"InstanceMatchCriteria": "targeted", **asked})
    return str(made["CapacityReservation"]["CapacityReservationId"])


def inside(reservation: str, **more: Any) -> dict[str, Any]:
    target = {"CapacityReservationTarget": {"CapacityReservationId": reservation}}
    asked = {"ImageId": IMAGE, "InstanceType": P5, "MinCount": 1, "MaxCount": 1}
    return {**asked, "CapacityReservationSpecification": target, **more}


def free(ec2: Any, reservation: str) -> int:
    [told] = ec2.describe_capacity_reservations(CapacityReservationIds=[reservation])["CapacityReservations"]
    return int(told["AvailableInstanceCount"])


def test_a_reservation_is_paid_for_at_once_and_an_instance_in_it_only_once(fake: FakeEc2) -> None:
    ec2 = client(fake)
    made = reserve(ec2)
    fake.account.advance(HOUR)
    unused = fake.account.bill()
    instance = launch(ec2, **inside(made))
    fake.account.advance(HOUR + 20)
    fake.account.end(fake.account.instances()[0], "x", "x")
    ec2.cancel_capacity_reservation(CapacityReservationId=made)
    fake.account.advance(HOUR)

    assert unused == 2 * PRICE
    total = fake.account.bill()
    assert total.quantize(Decimal("0.0001")) == (PRICE * 2 * (2 * HOUR + 20) / HOUR).quantize(Decimal("0.0001"))
    assert fake.account.bill([fake.account.things[instance]]) == PRICE


def test_reserved_capacity_is_taken_from_its_pool_and_goes_back(fake: FakeEc2) -> None:
    ec2 = client(fake)
    pool = P5, "use1-az6", "on-demand"
    fake.account.capacity[pool] = 3
    made = reserve(ec2)
    left = fake.account.capacity[pool]
    with pytest.raises(ClientError) as answer:
        reserve(ec2)
    launch(ec2, **inside(made))
    ec2.cancel_capacity_reservation(CapacityReservationId=made)

    assert left == 1 and fake.account.capacity[pool] == 2, "one of the two is still used"
    assert answer.value.response["Error"]["Code"] == "InsufficientInstanceCapacity"
    assert answer.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_a_launch_that_names_a_reservation_gets_its_room_and_no_more(fake: FakeEc2) -> None:
    ec2 = client(fake)
    fake.account.capacity[P5, "use1-az6", "on-demand"] = 2
    made = reserve(ec2)

    assert refused(ec2.run_instances, **inside(made, MinCount=3, MaxCount=3)) == "ReservationCapacityExceeded"
    [one, other] = ec2.run_instances(**inside(made, MaxCount=5))["Instances"]
    assert one["Placement"]["AvailabilityZone"] == "us-east-1b" and one["CapacityReservationId"] == made
    assert refused(ec2.run_instances, **inside(made)) == "ReservationCapacityExceeded"
    ec2.terminate_instances(InstanceIds=[other["InstanceId"]])
    assert free(ec2, made) == 1
    launch(ec2, **inside(made))


def test_a_launch_has_to_be_what_was_reserved(fake: FakeEc2) -> None:
    ec2 = client(fake)
    made = reserve(ec2)
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    elsewhere = {"SubnetId": fake.account.catalog.zones[0].subnet_id}

    assert refused(ec2.run_instances, **inside("cr-0123")) == "InvalidCapacityReservationId.NotFound"
    assert refused(ec2.run_instances, **inside(made, InstanceType="p4d.24xlarge")) == "InvalidParameterValue"
    assert refused(ec2.run_instances, **inside(made, **elsewhere)) == "InvalidParameterValue"
    assert refused(ec2.run_instances, **inside(made, **spot)) == "InvalidParameterCombination"
    ec2.cancel_capacity_reservation(CapacityReservationId=made)
    assert refused(ec2.run_instances, **inside(made)) == "InvalidCapacityReservationState"
    assert fake.account.instances() == []


def test_what_is_reserved_counts_against_the_quota_once(fake: FakeEc2) -> None:
    fake.account.quotas["P", "on-demand"] = 400
    ec2 = client(fake)
    made = reserve(ec2)

    assert refused(ec2.run_instances, **inside(made, CapacityReservationSpecification={})) == "VcpuLimitExceeded"
    zone = {"AvailabilityZone": "us-east-1a"}
    assert refused(ec2.create_capacity_reservation, **_asked(**zone)) == "VcpuLimitExceeded"
    ec2.run_instances(**inside(made, MinCount=2, MaxCount=2))
    assert fake.account.vcpus("P", "on-demand") == 384


def _asked(**more: Any) -> dict[str, Any]:
    asked = {"InstanceType": P5, "InstancePlatform": "Linux/UNIX", "InstanceCount": 1}
    return {**asked, "InstanceMatchCriteria": "targeted", **more}


def test_a_token_stands_for_one_reservation(fake: FakeEc2) -> None:
    ec2 = client(fake)
    made = reserve(ec2, ClientToken="t")

    assert reserve(ec2, ClientToken="t") == made
    assert reserve(ec2) != reserve(ec2), "botocore makes up no token"
    other = _asked(ClientToken="t", AvailabilityZoneId="use1-az6")
    assert refused(ec2.create_capacity_reservation, **other) == "IdempotentParameterMismatch"


def test_a_reservation_may_expire(fake: FakeEc2) -> None:
    ec2 = client(fake)
    pool = P5, "use1-az6", "on-demand"
    fake.account.capacity[pool] = 2
    until = datetime.fromtimestamp(fake.account.now + HOUR, UTC)
    made = reserve(ec2, EndDateType="limited", EndDate=until)
    fake.account.advance(2 * HOUR - 1)
    [told] = ec2.describe_capacity_reservations()["CapacityReservations"]
    launch(ec2, InstanceType=P5, SubnetId=fake.account.catalog.zones[1].subnet_id)

    assert (told["State"], told["EndDate"], told["TotalInstanceCount"]) == ("expired", until, 0)
    assert fake.account.bill([fake.account.things[made]]) == 2 * PRICE
    assert fake.account.capacity[pool] == 1, "two came back, and one was launched"


def test_reservations_are_found_and_stay_for_a_while_after_they_are_cancelled(fake: FakeEc2) -> None:
    ec2 = client(fake)
    tags = [{"ResourceType": "capacity-reservation", "Tags": [{"Key": "owner", "Value": "mine"}]}]
    mine, other = reserve(ec2, TagSpecifications=tags), reserve(ec2, AvailabilityZone="us-east-1a")
    ec2.cancel_capacity_reservation(CapacityReservationId=other)

    def found(name: str, value: str) -> list[str]:
        asked = ec2.describe_capacity_reservations(Filters=[{"Name": name, "Values": [value]}])
        return [r["CapacityReservationId"] for r in asked["CapacityReservations"]]

    assert found("tag:owner", "mine") == found("state", "active") == [mine]
    assert found("state", "cancelled") == [other]
    again = refused(ec2.cancel_capacity_reservation, CapacityReservationId=other)
    assert again == "InvalidCapacityReservationState"
    fake.account.advance(HOUR)
    assert found("state", "cancelled") == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"InstanceType": "z9.huge", "AvailabilityZoneId": "use1-az6"}, "InvalidParameterValue"),
        ({"AvailabilityZone": "us-east-1z"}, "InvalidParameterValue"),
        ({}, "MissingParameter"),
        ({"AvailabilityZoneId": "use1-az6", "InstanceCount": 0}, "InvalidParameterValue"),
        ({"AvailabilityZoneId": "use1-az6", "EndDateType": "limited"}, "InvalidParameterCombination"),
        (
            {"AvailabilityZoneId": "use1-az6", "EndDateType": "limited", "EndDate": datetime(2020, 1, 1, tzinfo=UTC)},
            "InvalidParameterValue",
        ),
        ({"AvailabilityZoneId": "use1-az6", "InstanceMatchCriteria": "open"}, "UnsupportedOperation"),
    ],
)
def test_a_reservation_that_makes_no_sense_is_refused(fake: FakeEc2, more: dict[str, Any], code: str) -> None:
    assert refused(client(fake).create_capacity_reservation, **_asked(**more)) == code
    assert fake.account.things == {}


def test_capacity_is_reserved_only_where_its_type_is_offered() -> None:
    account = Account()
    types = tuple(replace(t, zones=("use1-az1",)) for t in account.catalog.types)
    account.catalog = replace(account.catalog, types=types)
    with fake_ec2(account) as fake:
        ec2 = client(fake)

        assert refused(ec2.create_capacity_reservation, **_asked(AvailabilityZoneId="use1-az6")) == "Unsupported"
        reserve(ec2, AvailabilityZone="us-east-1c")


# -- consoles ---------------------------------------------------------------------------------------------------------------


def console(ec2: Any, instance: str) -> str:
    return str(ec2.get_console_output(InstanceId=instance).get("Output", ""))


def test_a_console_shows_the_key_that_a_test_gave_the_host(fake: FakeEc2) -> None:
    fake.account.delays = Delays(console=30.0)
    ec2 = client(fake)
    made = a_running_one(fake, ec2)
    instance = fake.account.things[made]
    assert isinstance(instance, Instance)
    instance.host_key = "ssh-ed25519 AAAAgiven"
    fake.account.advance(29)
    early = console(ec2, made)
    fake.account.advance(1)

    assert early == ""
    lines = console(ec2, made).split("\r\n")
    start = lines.index("-----BEGIN SSH HOST KEY KEYS-----")
    assert lines[start + 1 : start + 3] == ["ssh-ed25519 AAAAgiven root@instance", "-----END SSH HOST KEY KEYS-----"]


def test_each_host_has_a_key_of_its_own(fake: FakeEc2) -> None:
    ec2 = client(fake)
    one, other = launch(ec2), launch(ec2)
    fake.account.advance(60)

    assert console(ec2, one) != console(ec2, other)
    assert console(ec2, one) == console(ec2, one)


def test_a_console_shows_what_a_test_writes_to_it_the_last_of_it(fake: FakeEc2) -> None:
    ec2 = client(fake)
    made = launch(ec2)
    fake.account.consoles[made] = "x" * 65_536 + "kernel panic"

    assert console(ec2, made) == ("x" * 65_536 + "kernel panic")[-65_536:]
    assert refused(ec2.get_console_output, InstanceId="i-0123") == "InvalidInstanceID.NotFound"
