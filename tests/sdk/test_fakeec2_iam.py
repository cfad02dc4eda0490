"""The fake account's IAM and STS, and what EC2 knows of instance profiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from falplan.sdk.testing.fakeec2 import Credential, Delays, FakeEc2, fake_ec2

from .aws import client, launch, refused

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
)
POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}
)
CORE = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
HOSTS = {"InstanceProfileName": "hosts"}
ROLE = {"RoleName": "hosts"}


@pytest.fixture
def fake() -> Iterator[FakeEc2]:
    with fake_ec2() as made:
        yield made


def a_role(iam: Any, name: str = "hosts", **more: Any) -> str:
    return str(iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST, **more)["Role"]["Arn"])


def a_profile(iam: Any) -> str:
    """One with a role, as it was made this moment."""
    a_role(iam)
    made = iam.create_instance_profile(**HOSTS)["InstanceProfile"]
    iam.add_role_to_instance_profile(**HOSTS, **ROLE)
    return str(made["Arn"])


# -- roles ------------------------------------------------------------------------------------------------------------------


def test_a_role_is_found_as_it_was_made(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    made = a_role(iam, Path="/falplan/", Description="<hosts>", MaxSessionDuration=7200)
    role = iam.get_role(**ROLE)["Role"]

    assert made == "arn:aws:iam::123456789012:role/falplan/hosts" == role["Arn"]
    assert role["AssumeRolePolicyDocument"] == json.loads(TRUST), "boto3 has decoded it"
    assert (role["Description"], role["MaxSessionDuration"]) == ("<hosts>", 7200)
    assert role["CreateDate"].timestamp() == fake.account.now


def test_a_name_is_taken_in_any_case_and_a_role_that_is_not_there_is_no_entity(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_role(iam)

    assert refused(iam.create_role, RoleName="Hosts", AssumeRolePolicyDocument=TRUST) == "EntityAlreadyExists"
    assert refused(iam.get_role, RoleName="none") == "NoSuchEntity"
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.delete_role(RoleName="none")


@pytest.mark.parametrize(
    "trust",
    [
        "no JSON",
        "[]",
        '{"Version": "2026-01-01", "Statement": []}',
        '{"Statement": [{"Effect": "Maybe", "Principal": "*", "Action": "*"}]}',
        '{"Statement": [{"Effect": "Allow", "Principal": "*"}]}',
        POLICY,
    ],
)
def test_a_document_that_is_no_trust_is_malformed(fake: FakeEc2, trust: str) -> None:
    iam = client(fake, "iam")
    a_role(iam)

    assert refused(iam.create_role, RoleName="x", AssumeRolePolicyDocument=trust) == "MalformedPolicyDocument"
    assert refused(iam.update_assume_role_policy, **ROLE, PolicyDocument=trust) == "MalformedPolicyDocument"
    assert iam.get_role(**ROLE)["Role"]["AssumeRolePolicyDocument"] == json.loads(TRUST)


def test_a_trust_is_replaced(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_role(iam)
    other = TRUST.replace("ec2.amazonaws.com", "lambda.amazonaws.com")
    iam.update_assume_role_policy(**ROLE, PolicyDocument=other)

    assert iam.get_role(**ROLE)["Role"]["AssumeRolePolicyDocument"] == json.loads(other)


def test_what_a_model_limits_is_checked(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    with pytest.raises(ClientError, match=r"'roleName' failed to satisfy constraint.* regular expression") as answer:
        a_role(iam, "a role")
    a_role(iam, Tags=[{"Key": "of whom: größe/1", "Value": ""}])

    assert answer.value.response["Error"]["Code"] == "ValidationError"
    assert refused(iam.create_role, RoleName="x" * 65, AssumeRolePolicyDocument=TRUST) == "ValidationError"


def test_a_role_goes_only_when_nothing_is_left_of_it(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_profile(iam)
    iam.attach_role_policy(**ROLE, PolicyArn=CORE)
    iam.put_role_policy(**ROLE, PolicyName="own", PolicyDocument=POLICY)
    undo: list[tuple[str, dict[str, str]]] = [
        ("remove_role_from_instance_profile", HOSTS),
        ("detach_role_policy", {"PolicyArn": CORE}),
        ("delete_role_policy", {"PolicyName": "own"}),
    ]
    for name, asked in undo:
        assert refused(iam.delete_role, **ROLE) == "DeleteConflict"
        getattr(iam, name)(**ROLE, **asked)
    iam.delete_role(**ROLE)

    assert refused(iam.get_role, **ROLE) == "NoSuchEntity"


def test_tags_of_roles_are_one_whatever_the_case_of_their_keys(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_role(iam, Tags=[{"Key": "owner", "Value": "1"}])
    iam.tag_role(**ROLE, Tags=[{"Key": "Owner", "Value": "2"}, {"Key": "more", "Value": "3"}])
    iam.untag_role(**ROLE, TagKeys=["MORE", "none"])

    assert iam.list_role_tags(**ROLE)["Tags"] == [{"Key": "Owner", "Value": "2"}]
    assert iam.get_role(**ROLE)["Role"]["Tags"] == [{"Key": "Owner", "Value": "2"}]
    twice = [{"Key": "a", "Value": ""}, {"Key": "A", "Value": ""}]
    assert refused(iam.tag_role, **ROLE, Tags=twice) == "InvalidInput"
    assert refused(iam.tag_role, **ROLE, Tags=[{"Key": "aws:x", "Value": ""}]) == "InvalidInput"
    many = [{"Key": str(number), "Value": ""} for number in range(50)]
    assert refused(iam.tag_role, **ROLE, Tags=many) == "LimitExceeded"


def test_roles_are_listed_by_path_in_pages_without_tags(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    for number in range(5):
        a_role(iam, f"r{number}", Path="/falplan/", Tags=[{"Key": "a", "Value": "1"}])
    a_role(iam)
    pages = list(iam.get_paginator("list_roles").paginate(PathPrefix="/falplan/", PaginationConfig={"PageSize": 2}))

    assert [len(page["Roles"]) for page in pages] == [2, 2, 1]
    assert [role["RoleName"] for page in pages for role in page["Roles"]] == [f"r{n}" for n in range(5)]
    assert not any("Tags" in role for page in pages for role in page["Roles"])
    assert refused(iam.list_roles, Marker="never given") == "ValidationError"


# -- policies ---------------------------------------------------------------------------------------------------------------


def test_a_roles_own_policy_is_put_read_and_deleted(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_role(iam)
    own = {**ROLE, "PolicyName": "own"}
    for _ in range(2):
        iam.put_role_policy(**own, PolicyDocument=POLICY)

    assert iam.get_role_policy(**own)["PolicyDocument"] == json.loads(POLICY)
    assert iam.list_role_policies(**ROLE)["PolicyNames"] == ["own"]
    assert refused(iam.put_role_policy, **own, PolicyDocument=TRUST) == "MalformedPolicyDocument"
    long = POLICY.replace("*", "x" * 10_240)
    assert refused(iam.put_role_policy, **own, PolicyDocument=long) == "LimitExceeded"
    iam.delete_role_policy(**own)
    assert refused(iam.get_role_policy, **own) == refused(iam.delete_role_policy, **own) == "NoSuchEntity"


def test_a_policy_of_aws_is_attached_once_and_detached_once(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_role(iam)
    for _ in range(2):
        iam.attach_role_policy(**ROLE, PolicyArn=CORE)
    listed = iam.list_attached_role_policies(**ROLE)["AttachedPolicies"]
    iam.detach_role_policy(**ROLE, PolicyArn=CORE)

    assert listed == [{"PolicyName": "AmazonSSMManagedInstanceCore", "PolicyArn": CORE}]
    assert refused(iam.detach_role_policy, **ROLE, PolicyArn=CORE) == "NoSuchEntity"
    assert refused(iam.attach_role_policy, **ROLE, PolicyArn=CORE + "X") == "NoSuchEntity"


# -- profiles ---------------------------------------------------------------------------------------------------------------


def test_an_instance_profile_has_one_role(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    arn = a_profile(iam)
    a_role(iam, "other")
    [profile] = iam.list_instance_profiles()["InstanceProfiles"]

    assert (profile["Arn"], [role["RoleName"] for role in profile["Roles"]]) == (arn, ["hosts"])
    assert refused(iam.add_role_to_instance_profile, **HOSTS, RoleName="other") == "LimitExceeded"
    assert refused(iam.remove_role_from_instance_profile, **HOSTS, RoleName="other") == "NoSuchEntity"
    assert refused(iam.create_instance_profile, InstanceProfileName="HOSTS") == "EntityAlreadyExists"


def test_an_instance_profile_goes_when_its_role_is_out(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    a_profile(iam)

    assert refused(iam.delete_instance_profile, **HOSTS) == "DeleteConflict"
    iam.remove_role_from_instance_profile(**HOSTS, **ROLE)
    iam.delete_instance_profile(**HOSTS)
    assert refused(iam.get_instance_profile, **HOSTS) == "NoSuchEntity"


def test_instance_profiles_have_tags(fake: FakeEc2) -> None:
    iam = client(fake, "iam")
    iam.create_instance_profile(**HOSTS, Tags=[{"Key": "a", "Value": "1"}])
    iam.tag_instance_profile(**HOSTS, Tags=[{"Key": "b", "Value": "2"}])
    expected = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]

    assert iam.list_instance_profile_tags(**HOSTS)["Tags"] == expected
    assert iam.get_instance_profile(**HOSTS)["InstanceProfile"]["Tags"] == expected


def test_ec2_knows_of_a_new_profile_and_of_its_role_late(fake: FakeEc2) -> None:
    fake.account.delays = Delays(profiles=8.0)
    iam, ec2 = client(fake, "iam"), client(fake)
    arn = iam.create_instance_profile(**HOSTS)["InstanceProfile"]["Arn"]
    for told, words in (({"Name": "hosts"}, "Invalid IAM Instance Profile name"), ({"Arn": arn}, "Profile ARN")):
        with pytest.raises(ClientError, match=words) as answer:
            launch(ec2, IamInstanceProfile=told)
        assert answer.value.response["Error"]["Code"] == "InvalidParameterValue"
    fake.account.advance(8)
    a_role(iam)
    iam.add_role_to_instance_profile(**HOSTS, **ROLE)
    with pytest.raises(ClientError, match="has no associated IAM Roles"):
        launch(ec2, IamInstanceProfile={"Arn": arn})
    assert fake.account.instances() == []

    fake.account.advance(8)
    made = launch(ec2, IamInstanceProfile={"Name": "hosts"})
    [told] = ec2.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"]
    assert told["IamInstanceProfile"]["Arn"] == arn


def test_who_may_not_pass_roles_launches_nothing_with_a_profile(fake: FakeEc2) -> None:
    arn = a_profile(client(fake, "iam"))
    fake.account.advance(60)
    fake.account.credentials["AKIAFAKE"] = Credential(denied=("PassRole",))
    ec2 = client(fake)
    launch(ec2)

    assert refused(ec2.run_instances, **_asked(Arn=arn)) == "UnauthorizedOperation"


def test_a_profile_is_named_in_one_way(fake: FakeEc2) -> None:
    arn = a_profile(client(fake, "iam"))
    fake.account.advance(60)

    asked = _asked(Arn=arn, Name="hosts")
    assert refused(client(fake).run_instances, **asked) == "InvalidParameterCombination"


def _asked(**profile: str) -> dict[str, Any]:
    image = {"ImageId": "ami-0aaaaaaaaaaaaaaa1", "InstanceType": "g6.xlarge"}
    return {**image, "MinCount": 1, "MaxCount": 1, "IamInstanceProfile": profile}


def test_what_iam_made_is_seen_late(fake: FakeEc2) -> None:
    fake.account.delays = Delays(visible={"role": 5.0, "profile": 5.0})
    iam = client(fake, "iam")
    a_role(iam)
    iam.create_instance_profile(**HOSTS)

    assert refused(iam.get_role, **ROLE) == refused(iam.get_instance_profile, **HOSTS) == "NoSuchEntity"
    assert iam.list_roles()["Roles"] == iam.list_instance_profiles()["InstanceProfiles"] == []
    assert refused(iam.create_role, **ROLE, AssumeRolePolicyDocument=TRUST) == "EntityAlreadyExists"
    fake.account.advance(5)
    iam.add_role_to_instance_profile(**HOSTS, **ROLE)


# -- callers ----------------------------------------------------------------------------------------------------------------


def test_everybody_may_ask_who_they_are(fake: FakeEc2) -> None:
    fake.account.credentials["AKIAFAKE"] = Credential(denied=("*",))
    told = client(fake, "sts").get_caller_identity()

    assert (told["Account"], told["Arn"]) == ("123456789012", "arn:aws:iam::123456789012:user/fake")


def session_of(fake: FakeEc2, arn: str, **more: Any) -> dict[str, str]:
    told = client(fake, "sts").assume_role(RoleArn=arn, RoleSessionName="falplan", **more)["Credentials"]
    return {
        "aws_access_key_id": told["AccessKeyId"],
        "aws_secret_access_key": told["SecretAccessKey"],
        "aws_session_token": told["SessionToken"],
    }


def test_a_roles_session_calls_until_it_expires(fake: FakeEc2) -> None:
    arn = a_role(client(fake, "iam"))
    session = session_of(fake, arn, DurationSeconds=900)
    ec2, sts = client(fake, session=session), client(fake, "sts", session=session)
    ec2.describe_vpcs()
    told = sts.get_caller_identity()

    assert told["Arn"] == "arn:aws:sts::123456789012:assumed-role/hosts/falplan"
    assert told["UserId"] == f"{fake.account.roles['hosts'].id}:falplan"
    fake.account.advance(900)
    assert refused(ec2.describe_vpcs) == "RequestExpired"
    assert refused(sts.get_caller_identity) == "ExpiredToken"
    assert refused(client(fake, "ssm", session=session).get_parameter, Name="/x") == "ExpiredTokenException"


def test_a_sessions_key_is_nothing_without_its_token(fake: FakeEc2) -> None:
    session = session_of(fake, a_role(client(fake, "iam")))

    assert refused(client(fake, session={**session, "aws_session_token": "another"}).describe_vpcs) == "AuthFailure"


def test_a_sessions_rights_are_its_roles(fake: FakeEc2) -> None:
    arn = a_role(client(fake, "iam"))
    fake.account.roles["hosts"].denied = ("Describe*",)
    session = session_of(fake, arn)

    assert refused(client(fake, session=session).describe_vpcs) == "UnauthorizedOperation"
    client(fake).describe_vpcs()


def test_aws_does_not_tell_whether_there_is_no_role_or_it_may_not_be_assumed(fake: FakeEc2) -> None:
    fake.account.external_id = "secret"
    arn, sts = a_role(client(fake, "iam")), client(fake, "sts")
    asked = {"RoleSessionName": "falplan", "ExternalId": "secret"}

    assert refused(sts.assume_role, **asked, RoleArn=arn + "x") == "AccessDenied"
    assert refused(sts.assume_role, **{**asked, "ExternalId": "other"}, RoleArn=arn) == "AccessDenied"
    assert refused(sts.assume_role, RoleSessionName="falplan", RoleArn=arn) == "AccessDenied"
    sts.assume_role(**asked, RoleArn=arn)


def test_a_session_lasts_no_longer_than_its_role_allows_and_a_chained_one_an_hour(fake: FakeEc2) -> None:
    arn = a_role(client(fake, "iam"), MaxSessionDuration=7200)
    session = session_of(fake, arn, DurationSeconds=7200)
    asked = {"RoleArn": arn, "RoleSessionName": "falplan"}
    chained = client(fake, "sts", session=session)

    assert refused(client(fake, "sts").assume_role, **asked, DurationSeconds=7201) == "ValidationError"
    assert refused(chained.assume_role, **asked, DurationSeconds=3601) == "ValidationError"
    chained.assume_role(**asked, DurationSeconds=3600)
