"""The fake EC2 as boto3 sees it: what it promises to whoever tests against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.validate import ParamValidator

from falplan.sdk.testing.fakeec2 import Account, Bucket, Credential, Delays, FakeEc2, Fault, Strike, fake_ec2
from falplan.sdk.testing.fakeec2.services import SERVICES
from falplan.sdk.testing.fakeec2.wire import Ec2Error, model, read, write

IMAGE = "ami-0aaaaaaaaaaaaaaa1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
def fake() -> Iterator[FakeEc2]:
    with fake_ec2() as made:
        yield made


def client(fake: FakeEc2, **more: Any) -> Any:
    """One attempt for each call: what the server answers is what the test sees."""
    config = Config(retries={"total_max_attempts": 1}, **more)
    return boto3.client("ec2", endpoint_url=fake.url, region_name="us-east-1", config=config, **fake.credentials)


def launch(ec2: Any, **more: Any) -> list[str]:
    asked = {"ImageId": IMAGE, "InstanceType": "g6.xlarge", "MinCount": 1, "MaxCount": 1, **more}
    return [i["InstanceId"] for i in ec2.run_instances(**asked)["Instances"]]


def states(ec2: Any, **asked: Any) -> dict[str, str]:
    found = ec2.describe_instances(**asked)["Reservations"]
    return {i["InstanceId"]: i["State"]["Name"] for r in found for i in r["Instances"]}


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


# -- life -----------------------------------------------------------------------------------------------------------------


def test_an_instance_lives_in_virtual_time_and_costs_while_it_runs(fake: FakeEc2) -> None:
    ec2 = client(fake)
    [made] = launch(ec2)
    seen = [states(ec2)[made]]
    for seconds in (19, 1, 3600):
        fake.account.advance(seconds)
        seen.append(states(ec2)[made])
    ec2.terminate_instances(InstanceIds=[made])
    seen.append(states(ec2)[made])
    fake.account.advance(30)
    seen.append(states(ec2)[made])
    fake.account.advance(3600)

    assert seen == ["pending", "pending", "running", "running", "shutting-down", "terminated"]
    assert states(ec2) == {}, "an hour later it is listed no more"
    assert code_of(lambda: ec2.describe_instances(InstanceIds=[made])) == "InvalidInstanceID.NotFound"
    assert fake.account.bill() == Decimal("0.805")


def test_a_spot_instance_is_taken_back_with_two_minutes_notice(fake: FakeEc2) -> None:
    ec2 = client(fake)
    [made] = launch(ec2, InstanceMarketOptions={"MarketType": "spot"})
    fake.account.advance(60)
    fake.account.reclaim(made)
    fake.account.advance(119)
    before = states(ec2)[made]
    fake.account.advance(1)
    [told] = ec2.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"]

    assert before == "running" and told["InstanceLifecycle"] == "spot"
    assert told["State"]["Name"] == "shutting-down"
    assert told["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert fake.account.bill() == Decimal("0.26") * 160 / 3600


def test_tags_are_there_from_the_first_moment_and_filters_find_them(fake: FakeEc2) -> None:
    ec2 = client(fake)
    tags = [{"Key": "falplan:owner", "Value": "mine"}]
    kinds = ("instance", "volume", "network-interface")
    [mine] = launch(ec2, TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in kinds])
    [other] = launch(ec2)
    found = ec2.describe_tags(Filters=[{"Name": "key", "Values": ["falplan:*"]}])["Tags"]

    assert list(states(ec2, Filters=[{"Name": "tag:falplan:owner", "Values": ["m*"]}])) == [mine]
    assert sorted(row["ResourceType"] for row in found) == sorted(kinds)
    ec2.create_tags(Resources=[other], Tags=tags)
    ec2.delete_tags(Resources=[mine], Tags=[{"Key": "falplan:owner"}])
    assert list(states(ec2, Filters=[{"Name": "tag-key", "Values": ["falplan:owner"]}])) == [other]
    assert code_of(lambda: ec2.create_tags(Resources=["i-0123"], Tags=tags)) == "InvalidID"
    assert code_of(lambda: states(ec2, Filters=[{"Name": "no-such", "Values": ["x"]}])) == "InvalidParameterValue"


def test_a_protected_instance_is_terminated_once_it_may(fake: FakeEc2) -> None:
    ec2 = client(fake)
    [made] = launch(ec2, DisableApiTermination=True)
    assert code_of(lambda: ec2.terminate_instances(InstanceIds=[made])) == "OperationNotPermitted"
    ec2.modify_instance_attribute(InstanceId=made, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=[made])
    assert states(ec2)[made] == "shutting-down"


def test_terminating_names_all_or_does_nothing(fake: FakeEc2) -> None:
    ec2 = client(fake)
    [made] = launch(ec2)
    assert code_of(lambda: ec2.terminate_instances(InstanceIds=[made, "i-0123"])) == "InvalidInstanceID.NotFound"
    assert states(ec2)[made] == "pending"


def test_listings_come_in_pages(fake: FakeEc2) -> None:
    ec2 = client(fake)
    made = launch(ec2, MinCount=12, MaxCount=12)
    pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(p["Reservations"]) for p in pages] == [5, 5, 2]
    assert [i["InstanceId"] for p in pages for r in p["Reservations"] for i in r["Instances"]] == made
    assert code_of(lambda: ec2.describe_instances(MaxResults=4)) == "InvalidParameterValue"
    both = {"InstanceIds": made[:1], "MaxResults": 5}
    assert code_of(lambda: ec2.describe_instances(**both)) == "InvalidParameterCombination"


# -- tokens and lost answers ------------------------------------------------------------------------------------------------


def test_a_token_stands_for_one_instance_in_one_zone(fake: FakeEc2) -> None:
    ec2 = client(fake)
    first, second = fake.account.catalog.zones[:2]
    [made] = launch(ec2, ClientToken="t", SubnetId=first.subnet_id)
    assert launch(ec2, ClientToken="t", SubnetId=first.subnet_id) == [made]
    assert launch(ec2, ClientToken="t", SubnetId=second.subnet_id) != [made], "another zone, another instance"
    other = {"ClientToken": "t", "SubnetId": first.subnet_id, "InstanceType": "t3.small"}
    assert code_of(lambda: launch(ec2, **other)) == "IdempotentParameterMismatch"
    ec2.terminate_instances(InstanceIds=[made])
    fake.account.advance(60)
    same = {"ClientToken": "t", "SubnetId": first.subnet_id}
    assert code_of(lambda: launch(ec2, **same)) == "IdempotentInstanceTerminated"
    fake.account.advance(86_400)
    assert launch(ec2, **same) != [made], "tokens are forgotten"
    assert code_of(lambda: launch(ec2, ClientToken="x" * 65)) == "InvalidParameterValue"


@pytest.mark.parametrize("strike", [Strike.DONE_DROP, Strike.DONE_ERROR, Strike.HANG])
def test_an_answer_that_is_lost_after_the_work_is_asked_for_again_by_its_token(fake: FakeEc2, strike: Strike) -> None:
    ec2 = client(fake, read_timeout=1)
    fake.account.faults.append(Fault("RunInstances", strike))
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "for", "Value": "host-1"}]}]
    with pytest.raises((ClientError, HTTPClientError)):
        launch(ec2, ClientToken="t", TagSpecifications=tags)
    [made] = launch(ec2, ClientToken="t", TagSpecifications=tags)
    assert [i.id for i in fake.account.instances()] == [made]
    assert fake.account.overlaps("for") == []

    [twin] = launch(ec2, ClientToken="another", TagSpecifications=tags)
    assert fake.account.overlaps("for") == [("host-1", made, twin)]


def test_what_struck_before_the_work_left_nothing(fake: FakeEc2) -> None:
    ec2 = client(fake)
    fake.account.faults += [
        Fault("RunInstances", Strike.DROP),
        Fault("Run*", Strike.ERROR, nth=2, code="Unavailable", status=503),
    ]
    with pytest.raises(HTTPClientError):
        launch(ec2)
    with pytest.raises(ClientError, match="Unavailable"):
        launch(ec2)
    assert fake.account.instances() == []
    assert [(c.action, c.code, c.done) for c in fake.account.calls] == [
        ("RunInstances", "InternalError", False),
        ("RunInstances", "Unavailable", False),
    ]


# -- what it refuses --------------------------------------------------------------------------------------------------------


def test_pools_quotas_and_offers_refuse_with_ec2s_own_codes(fake: FakeEc2) -> None:
    ec2 = client(fake)
    zone = fake.account.catalog.zones[0]
    asked = {"InstanceType": "p5.48xlarge", "SubnetId": zone.subnet_id}
    fake.account.capacity["p5.48xlarge", zone.zone_id, "on-demand"] = 1
    launch(ec2, **asked)
    with pytest.raises(ClientError) as refused:
        launch(ec2, **asked)
    assert refused.value.response["Error"]["Code"] == "InsufficientInstanceCapacity"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500, "which clients retry"
    launch(ec2, InstanceType="p5.48xlarge")  # another zone has some

    fake.account.quotas["P", "on-demand"] = 400
    assert code_of(lambda: launch(ec2, InstanceType="p5.4xlarge", MinCount=2, MaxCount=2)) == "VcpuLimitExceeded"
    fake.account.quotas["G", "spot"] = 0
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert code_of(lambda: launch(ec2, **spot)) == "MaxSpotInstanceCountExceeded"


def test_a_type_is_offered_where_its_zones_say() -> None:
    account = Account()
    [b200] = [t for t in account.catalog.types if t.name == "p6-b200.48xlarge"]
    from dataclasses import replace

    types = tuple(replace(t, zones=("use1-az6",)) if t is b200 else t for t in account.catalog.types)
    account.catalog = replace(account.catalog, types=types)
    with fake_ec2(account) as fake:
        ec2 = client(fake)
        asked = {"LocationType": "availability-zone-id", "Filters": [{"Name": "instance-type", "Values": ["p6-*"]}]}
        offers = ec2.describe_instance_type_offerings(**asked)["InstanceTypeOfferings"]
        assert [o["Location"] for o in offers] == ["use1-az6"]
        wrong = {"InstanceType": "p6-b200.48xlarge", "SubnetId": account.catalog.zones[0].subnet_id}
        assert code_of(lambda: launch(ec2, **wrong)) == "Unsupported"
        launch(ec2, InstanceType="p6-b200.48xlarge")


def test_an_instance_may_end_without_having_run_and_no_call_says_so(fake: FakeEc2) -> None:
    ec2 = client(fake)
    zone = fake.account.catalog.zones[0]
    fake.account.stillborn.add(("g6.xlarge", zone.zone_id, "on-demand"))
    [made] = launch(ec2, SubnetId=zone.subnet_id)
    fake.account.advance(20)
    [told] = ec2.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"]
    assert told["State"]["Name"] == "terminated"
    assert told["StateReason"]["Code"] == "Server.InsufficientInstanceCapacity"
    assert fake.account.bill() == 0


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"ImageId": "ami-0123"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "z9.huge"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-0123"}, "InvalidSubnetID.NotFound"),
        ({"KeyName": "none"}, "InvalidKeyPair.NotFound"),
        ({"SecurityGroupIds": ["sg-0123"]}, "InvalidGroup.NotFound"),
        ({"UserData": "x" * 16_385}, "InvalidParameterValue"),
        ({"MinCount": 2}, "InvalidParameterValue"),
        (
            {"SubnetId": "subnet-0fa1e00000000004", "NetworkInterfaces": [{"DeviceIndex": 0}]},
            "InvalidParameterCombination",
        ),
        ({"LaunchTemplate": {"LaunchTemplateId": "lt-0123"}}, "InvalidLaunchTemplateId.NotFound"),
        ({"DryRun": True}, "DryRunOperation"),
    ],
)
def test_what_makes_no_sense_is_refused_and_makes_nothing(fake: FakeEc2, asked: dict[str, Any], code: str) -> None:
    assert code_of(lambda: launch(client(fake), **asked)) == code
    assert fake.account.things == {}


def test_things_are_seen_late_and_states_later(fake: FakeEc2) -> None:
    fake.account.delays = Delays(visible={"i": 120.0, "sg": 5.0}, state=60.0)
    ec2 = client(fake)
    [made] = launch(ec2)
    group = ec2.create_security_group(GroupName="g", Description="d")["GroupId"]
    assert states(ec2) == {} and ec2.describe_security_groups()["SecurityGroups"] == []
    assert code_of(lambda: ec2.terminate_instances(InstanceIds=[made])) == "InvalidInstanceID.NotFound"
    fake.account.advance(5)
    assert [g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]] == [group]
    fake.account.advance(115)
    ec2.terminate_instances(InstanceIds=[made])
    assert states(ec2)[made] == "running", "as it was a minute ago"
    fake.account.advance(60)
    assert states(ec2)[made] == "shutting-down"


def test_calls_are_throttled_by_kind_until_time_goes_on(fake: FakeEc2) -> None:
    fake.account.buckets["Describe*"] = Bucket(size=2, refill=0.5, at=fake.account.now)
    ec2 = client(fake)
    states(ec2)
    states(ec2)
    with pytest.raises(ClientError) as refused:
        states(ec2)
    assert refused.value.response["Error"]["Code"] == "RequestLimitExceeded"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    launch(ec2)
    fake.account.advance(2)
    states(ec2)


def test_keys_expire_may_not_or_are_unknown(fake: FakeEc2) -> None:
    ec2 = client(fake)
    fake.account.credentials["AKIAFAKE"] = Credential(until=fake.account.now + 10, denied=("Terminate*",))
    assert code_of(lambda: ec2.terminate_instances(InstanceIds=["i-1"])) == "UnauthorizedOperation"
    states(ec2)
    fake.account.advance(10)
    assert code_of(lambda: states(ec2)) == "RequestExpired"
    fake.account.credentials["AKIAOTHER"] = fake.account.credentials.pop("AKIAFAKE")
    assert code_of(lambda: states(ec2)) == "AuthFailure"


# -- groups, templates, keys --------------------------------------------------------------------------------------------------


def test_a_security_group_has_each_rule_once_and_goes_when_nobody_uses_it(fake: FakeEc2) -> None:
    fake.account.delays = Delays(interfaces=90.0)
    ec2 = client(fake)
    group = ec2.create_security_group(GroupName="machines", Description="d")["GroupId"]
    assert code_of(lambda: ec2.create_security_group(GroupName="machines", Description="d")) == "InvalidGroup.Duplicate"
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    rules = [{**https, "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "192.0.2.0/24", "Description": "office"}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)
    again = [{**https, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}]
    duplicate = {"GroupId": group, "IpPermissions": again}
    assert code_of(lambda: ec2.authorize_security_group_ingress(**duplicate)) == "InvalidPermission.Duplicate"
    [told] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert told["IpPermissions"] == [
        {**https, **rules[0], "Ipv6Ranges": [], "UserIdGroupPairs": [], "PrefixListIds": []}
    ]
    assert told["IpPermissionsEgress"][0]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    ec2.revoke_security_group_ingress(**duplicate)
    assert code_of(lambda: ec2.revoke_security_group_ingress(**duplicate)) == "InvalidPermission.NotFound"

    [made] = launch(ec2, SecurityGroupIds=[group])
    ec2.terminate_instances(InstanceIds=[made])
    fake.account.advance(119)
    assert code_of(lambda: ec2.delete_security_group(GroupId=group)) == "DependencyViolation"
    fake.account.advance(1)
    ec2.delete_security_group(GroupId=group)
    assert code_of(lambda: ec2.describe_security_groups(GroupIds=[group])) == "InvalidGroup.NotFound"


def test_a_launch_template_says_what_a_launch_does_not(fake: FakeEc2) -> None:
    ec2 = client(fake)
    metadata = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}]}]
    data = {"ImageId": IMAGE, "InstanceType": "g6.xlarge", "MetadataOptions": metadata, "TagSpecifications": tags}
    made = ec2.create_launch_template(LaunchTemplateName="machines", LaunchTemplateData=data)["LaunchTemplate"]
    name = {"LaunchTemplateName": "machines"}
    taken = "InvalidLaunchTemplateName.AlreadyExistsException"
    assert code_of(lambda: ec2.create_launch_template(**name, LaunchTemplateData=data)) == taken
    ec2.create_launch_template_version(**name, LaunchTemplateData={**data, "InstanceType": "t3.small"})

    more = [{"ResourceType": "instance", "Tags": [{"Key": "b", "Value": "2"}]}]
    for version, kind in (("$Default", "g6.xlarge"), ("$Latest", "t3.small"), ("1", "g6.xlarge")):
        asked = {
            "LaunchTemplate": {**name, "Version": version},
            "TagSpecifications": more,
            "MinCount": 1,
            "MaxCount": 1,
        }
        [told] = ec2.run_instances(**asked)["Instances"]
        assert told["InstanceType"] == kind and told["MetadataOptions"]["HttpTokens"] == "required"
        assert told["Tags"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    ec2.modify_launch_template(**name, DefaultVersion="2")
    [seen] = ec2.describe_launch_templates(LaunchTemplateIds=[made["LaunchTemplateId"]])["LaunchTemplates"]
    assert (seen["DefaultVersionNumber"], seen["LatestVersionNumber"]) == (2, 2)
    versions = ec2.describe_launch_template_versions(**name)["LaunchTemplateVersions"]
    assert [(v["VersionNumber"], v["DefaultVersion"]) for v in versions] == [(1, False), (2, True)]
    ec2.delete_launch_template(**name)
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []


def test_key_pairs_are_imported_once_and_forgotten_at_will(fake: FakeEc2) -> None:
    ec2 = client(fake)
    asked = {"KeyName": "k", "PublicKeyMaterial": KEY.encode()}
    made = ec2.import_key_pair(**asked)
    assert code_of(lambda: ec2.import_key_pair(**asked)) == "InvalidKeyPair.Duplicate"
    assert code_of(lambda: ec2.import_key_pair(KeyName="x", PublicKeyMaterial=b"no key")) == "InvalidKey.Format"
    [seen] = ec2.describe_key_pairs(KeyNames=["k"])["KeyPairs"]
    assert (seen["KeyPairId"], seen["KeyType"]) == (made["KeyPairId"], "ed25519")
    launch(ec2, KeyName="k")
    ec2.delete_key_pair(KeyName="k")
    ec2.delete_key_pair(KeyName="k")
    assert code_of(lambda: ec2.describe_key_pairs(KeyNames=["k"])) == "InvalidKeyPair.NotFound"


def test_volumes_are_as_they_were_asked_for_and_go_with_their_instance(fake: FakeEc2) -> None:
    ec2 = client(fake)
    ebs = {"VolumeSize": 200, "VolumeType": "gp3", "Iops": 6000, "Throughput": 500, "Encrypted": True}
    [made] = launch(ec2, BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": ebs}])
    [volume] = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [made]}])["Volumes"]
    small = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}]
    assert {n: volume[n] for n in ("Size", "VolumeType", "Iops", "Throughput", "Encrypted")} == {
        "Size": 200, **{n: ebs[n] for n in ("VolumeType", "Iops", "Throughput", "Encrypted")}
    }  # fmt: skip
    assert code_of(lambda: launch(ec2, BlockDeviceMappings=small)) == "InvalidBlockDeviceMapping"
    ec2.terminate_instances(InstanceIds=[made])
    fake.account.advance(30)
    assert ec2.describe_volumes()["Volumes"] == []


# -- the protocol -------------------------------------------------------------------------------------------------------------

LISTINGS = {
    "describe_instances": {},
    "describe_volumes": {},
    "describe_security_groups": {},
    "describe_launch_templates": {},
    "describe_launch_template_versions": {"LaunchTemplateName": "machines"},
    "describe_key_pairs": {},
    "describe_tags": {},
    "describe_instance_types": {},
    "describe_instance_type_offerings": {"LocationType": "availability-zone"},
    "describe_availability_zones": {},
    "describe_subnets": {},
    "describe_vpcs": {},
    "describe_images": {},
    "describe_spot_price_history": {},
}


def test_every_answer_has_the_types_that_botocores_model_says(fake: FakeEc2) -> None:
    ec2 = client(fake)
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "a", "Value": "<&>"}]}]
    ec2.create_security_group(GroupName="g", Description="<d> & more", TagSpecifications=tags)
    ec2.import_key_pair(KeyName="k", PublicKeyMaterial=KEY.encode())
    ec2.create_launch_template(
        LaunchTemplateName="machines", LaunchTemplateData={"ImageId": IMAGE, "InstanceType": "g6.xlarge"}
    )
    launch(ec2, InstanceMarketOptions={"MarketType": "spot"}, KeyName="k")
    for name, asked in LISTINGS.items():
        answer = getattr(ec2, name)(**asked)
        answer.pop("ResponseMetadata")
        shape = model().operation_model(ec2.meta.method_to_api_mapping[name]).output_shape
        assert any(answer.values()), f"{name} listed nothing: the test proves nothing"
        assert not ParamValidator().validate(answer, shape).has_errors(), name
    [group] = ec2.describe_security_groups()["SecurityGroups"]
    assert (group["Description"], group["Tags"]) == ("<d> & more", [{"Key": "a", "Value": "<&>"}])


def test_what_the_model_does_not_know_is_no_request_and_no_answer(fake: FakeEc2) -> None:
    assert all(set(s.actions) <= set(model(s.name).operation_names) for s in SERVICES.values())
    with pytest.raises(Ec2Error, match="UnknownParameter"):
        read("RunInstances", {"Action": "RunInstances", "Placement.Nowhere": "x"})
    with pytest.raises(Ec2Error, match="InvalidAction"):
        read("RunNothing", {})
    with pytest.raises(KeyError):
        write("DescribeInstances", {"Reservations": [{"Nowhere": 1}]}, "r")
    assert code_of(client(fake).describe_nat_gateways) == "UnsupportedOperation"


def test_a_console_shows_host_keys_once_the_machine_has_booted(fake: FakeEc2) -> None:
    ec2 = client(fake)
    [made] = launch(ec2)

    def shown() -> str:
        return str(ec2.get_console_output(InstanceId=made, Latest=True).get("Output", ""))

    early = shown()
    fake.account.advance(60)

    assert early == ""
    assert "-----BEGIN SSH HOST KEY KEYS-----\r\nssh-ed25519 AAAA" in shown()


def test_a_public_address_is_there_while_a_machine_runs(fake: FakeEc2) -> None:
    ec2 = client(fake)
    [made] = launch(ec2)

    def address() -> Any:
        told = ec2.describe_instances(InstanceIds=[made])
        return told["Reservations"][0]["Instances"][0].get("PublicIpAddress")

    early = address()
    fake.account.advance(60)
    running = address()
    ec2.terminate_instances(InstanceIds=[made])
    fake.account.advance(60)

    assert (early, address()) == (None, None)
    assert str(running).startswith("203.0.113.")


def test_parameters_of_ssm_name_images(fake: FakeEc2) -> None:
    ssm = boto3.client("ssm", endpoint_url=fake.url, region_name="us-east-1", **fake.credentials)
    path = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
    told = ssm.get_parameter(Name=path)["Parameter"]["Value"]
    with pytest.raises(ClientError) as refused:
        ssm.get_parameter(Name="/aws/none")

    assert told == fake.account.catalog.images[0].image_id
    assert refused.value.response["Error"]["Code"] == "ParameterNotFound"
