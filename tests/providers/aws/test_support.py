"""What a region's machines need is made once, found again, set back, and removed; and it never lets the world in."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import boto3
import pytest

from falplan.core.errors import FalplanError
from falplan.sdk.resources import Declared, Failed, Found, Mark, ResourceKind, Standing
from falplan.sdk.testing.conformance import check_resources
from falplan.sdk.testing.fakeec2 import Delays, FakeEc2
from falplan_providers.aws.groups import Group, permission, rules
from falplan_providers.aws.options import IMAGE
from falplan_providers.aws.requests import Disk
from falplan_providers.aws.support import Support
from falplan_providers.aws.templates import Template, build_of

from .scene import AMI, OWNER, account_at

SSH = "203.0.113.7/32"


def support(fake: FakeEc2, *, ssh_from: tuple[str, ...] = (SSH,), **more: Any) -> Support:
    account = account_at(fake.url)
    values = {"image": AMI.id, "source": IMAGE, "disk": Disk(), "public": True, "profile": "", "vpc": "", "tags": {}}
    template = Template(**{**values, **more})
    return Support("us-east", account, Group("", ssh_from, {}), template, {}, fake.account.advance)


def mark(kind: ResourceKind, operation: str = "op-1", owner: str = OWNER) -> Mark:
    return Mark(owner, f"{kind.value}.us-east", operation)


def silent(line: str) -> None:
    """Nobody wants to see progress."""


def group_and_template(region: Support) -> tuple[Declared, Declared]:
    one, two = region.declared()
    return one, two


def made(region: Support, operation: str = "op-1") -> tuple[Found, Found]:
    one, two = group_and_template(region)
    return (
        region.create(one, mark(one.kind, operation), besides="", say=silent),
        region.create(two, mark(two.kind, operation), besides="", say=silent),
    )


def ec2(fake: FakeEc2) -> Any:
    return _client(fake.url, **fake.credentials)


@functools.cache
def _client(url: str, **key: str) -> Any:
    """One for all tests: clients are slow to make. With its own key: what boto3 found once, it keeps for a process."""
    return boto3.client("ec2", endpoint_url=url, region_name="us-east-1", **key)


def test_groups_conform(fake: FakeEc2) -> None:
    region = support(fake)
    [wanted, _] = region.declared()
    [changed, _] = support(fake, ssh_from=(SSH, "10.0.0.0/8")).declared()
    check_resources(region, wanted, changed)


class Templates(Support):
    """Its templates alone: the group is there already, and of nobody."""

    def look(self, owner: str, known: Mapping[str, Found]) -> list[Found]:
        return [f for f in super().look(owner, known) if f.identity.startswith("lt-")]


@pytest.mark.faults  # some four hundred calls
def test_templates_conform(fake: FakeEc2) -> None:
    whole = support(fake)
    for owner in ("mine", "theirs"):
        whole.create(whole.declared()[0], mark(ResourceKind.SECURITY_GROUP, owner=owner), besides="", say=silent)
    region = Templates(whole.region, whole.account, whole.group, whole.template, whole.home, whole.pause)
    changed = support(fake, disk=Disk(300)).declared()[1]
    check_resources(region, region.declared()[1], changed)


def test_nobody_but_those_who_are_named_gets_in(fake: FakeEc2) -> None:
    group, template = made(support(fake))
    [told] = ec2(fake).describe_security_groups(GroupIds=[group.identity])["SecurityGroups"]
    [version] = ec2(fake).describe_launch_template_versions(LaunchTemplateId=template.identity, Versions=["$Default"])[
        "LaunchTemplateVersions"
    ]
    data = version["LaunchTemplateData"]

    assert rules(told["IpPermissions"], "from") == [f"tcp 22 from {SSH}"]
    assert rules(told["IpPermissionsEgress"], "to") == ["-1 to 0.0.0.0/0", "-1 to ::/0"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["NetworkInterfaces"][0]["Groups"] == [group.identity]
    assert data["BlockDeviceMappings"][0]["Ebs"] == {
        "VolumeSize": 200,
        "VolumeType": "gp3",
        "Iops": 6000,
        "Throughput": 500,
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert sorted(t["ResourceType"] for t in data["TagSpecifications"]) == ["instance", "network-interface", "volume"]


def test_a_rule_that_somebody_added_is_drift_and_is_taken_away(fake: FakeEc2) -> None:
    region = support(fake)
    group, _ = made(region)
    ec2(fake).authorize_security_group_ingress(
        GroupId=group.identity, IpPermissions=[permission("tcp 0-65535 from 0.0.0.0/0")]
    )
    [seen, _] = region.look(OWNER, {})
    drifted = seen.inputs["ingress"]
    [wanted, _] = region.declared()
    after = region.update(wanted, mark(wanted.kind, "op-2"), group.identity, say=silent)

    assert drifted == ["tcp 0-65535 from 0.0.0.0/0", f"tcp 22 from {SSH}"]
    assert after.inputs == wanted.inputs


def test_a_template_that_somebody_opened_is_drift_and_is_set_back_by_a_new_version(fake: FakeEc2) -> None:
    region = support(fake)
    _, template = made(region)
    client = ec2(fake)
    opened = {"ImageId": AMI.id, "MetadataOptions": {"HttpTokens": "optional"}}
    client.create_launch_template_version(LaunchTemplateId=template.identity, LaunchTemplateData=opened)
    client.modify_launch_template(LaunchTemplateId=template.identity, DefaultVersion="2")
    [_, seen] = region.look(OWNER, {})
    _, wanted = group_and_template(region)
    after = region.update(wanted, mark(wanted.kind, "op-2"), template.identity, say=silent)

    assert seen.inputs["metadata"] == {"tokens": "optional", "hops": 0}
    assert seen.standing is Standing.ALTERED
    assert after.inputs == wanted.inputs and after.outputs["version"] == 3
    again = region.update(wanted, mark(wanted.kind, "op-2"), template.identity, say=silent)
    assert again.outputs["version"] == 3, "nothing is to be changed"


def test_machines_are_made_of_what_the_template_says(fake: FakeEc2) -> None:
    region = support(fake, disk=Disk(300, 3000, 125), tags={"team": "ml"})
    with pytest.raises(FalplanError, match="falplan apply"):
        build_of(region.account, OWNER, "us-east")
    group, _ = made(region)
    build = build_of(region.account, OWNER, "us-east")

    assert build.image == replace(AMI, size=300)
    assert (build.groups, build.disk, build.public) == ((group.identity,), Disk(300, 3000, 125), True)
    assert build.tags == {"team": "ml"}


def test_an_image_is_looked_up_once_and_kept(fake: FakeEc2) -> None:
    region = support(fake, image="")
    first = region.resolved({}, ask=True)
    fake.account.parameters[IMAGE] = "ami-0bbbbbbbbbbbbbbb1"
    known = {"launch_template.us-east": Found("launch_template.us-east", "lt-1", first.template.inputs)}

    assert first.template.image == AMI.id
    assert region.resolved(known, ask=True).template.image == AMI.id
    assert region.resolved({}, ask=False).template.image == ""
    other = support(fake, image="", source="ami-0cccccccccccccccc")
    assert other.resolved(known, ask=False).template.image == "ami-0cccccccccccccccc"
    with pytest.raises(FalplanError, match="no parameter /aws/none"):
        support(fake, image="", source="/aws/none").resolved({}, ask=True)


def test_a_group_of_our_name_that_is_somebody_elses_is_left_alone(fake: FakeEc2) -> None:
    client = ec2(fake)
    vpc = fake.account.catalog.vpc_id
    name = f"falplan-{OWNER[:8]}-us-east"
    theirs = client.create_security_group(GroupName=name, Description="theirs", VpcId=vpc)["GroupId"]
    region = support(fake)
    with pytest.raises(Failed, match="somebody else's"):
        made(region)
    region.delete(mark(ResourceKind.SECURITY_GROUP), "", say=silent)

    assert [g["GroupId"] for g in client.describe_security_groups(GroupIds=[theirs])["SecurityGroups"]] == [theirs]


def test_a_group_is_removed_once_the_interfaces_of_its_machines_are_gone(fake: FakeEc2) -> None:
    fake.account.delays = Delays(interfaces=120.0)
    region = support(fake)
    group, _ = made(region)
    client = ec2(fake)
    [machine] = client.run_instances(
        ImageId=AMI.id, InstanceType="g6.xlarge", MinCount=1, MaxCount=1, SecurityGroupIds=[group.identity]
    )["Instances"]
    client.terminate_instances(InstanceIds=[machine["InstanceId"]])
    said: list[str] = []
    region.delete(mark(ResourceKind.SECURITY_GROUP), group.identity, say=said.append)

    assert not region.remains(mark(ResourceKind.SECURITY_GROUP), group.identity)
    assert said == [f"{group.identity} is still used by machines that end"]


def test_a_disk_that_does_not_hold_the_image_is_refused(fake: FakeEc2) -> None:
    with pytest.raises(Failed, match="needs 35 GiB"):
        made(support(fake, disk=Disk(20)))
