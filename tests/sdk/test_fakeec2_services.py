"""What the fake account's services have in common, and those that only tell something: images, quotas, prices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError
from botocore.validate import ParamValidator

from falplan.sdk.testing.fakeec2 import Bucket, Credential, FakeEc2, Fault, Strike, fake_ec2, jsonwire
from falplan.sdk.testing.fakeec2.services import SERVICES
from falplan.sdk.testing.fakeec2.wire import Ec2Error, model, read, write

from .aws import client, refused

GPU = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-{}/latest/ami-id"
CPU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


@pytest.fixture
def fake() -> Iterator[FakeEc2]:
    with fake_ec2() as made:
        yield made


# -- images -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [GPU.format("22.04"), GPU.format("24.04"), CPU])
def test_a_parameter_names_an_image_that_is_there(fake: FakeEc2, path: str) -> None:
    told = client(fake, "ssm").get_parameter(Name=path)["Parameter"]

    [image] = client(fake).describe_images(ImageIds=[told["Value"]])["Images"]
    assert "24.04" not in path or "24.04" in image["Name"]


def test_parameters_that_are_not_there_are_named(fake: FakeEc2) -> None:
    fake.account.parameters["/mine"] = "ami-1"
    ssm = client(fake, "ssm")
    told = ssm.get_parameters(Names=["/none", "/mine"])

    assert [(p["Name"], p["Value"]) for p in told["Parameters"]] == [("/mine", "ami-1")]
    assert told["InvalidParameters"] == ["/none"]
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter(Name="/none")
    assert refused(ssm.get_parameters, Names=["/mine", "/mine"]) == "ValidationException"
    assert refused(ssm.get_parameters, Names=[f"/{n}" for n in range(11)]) == "ValidationException"


# -- quotas -----------------------------------------------------------------------------------------------------------------


def test_a_quota_is_the_accounts_own_and_the_default_where_none_was_set(fake: FakeEc2) -> None:
    fake.account.quotas["P", "on-demand"] = 192
    quotas = client(fake, "service-quotas")
    told = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-417A185B")["Quota"]
    g = {"ServiceCode": "ec2", "QuotaCode": "L-DB2E81BA"}

    assert (told["Value"], told["QuotaName"]) == (192.0, "Running On-Demand P instances")
    assert refused(quotas.get_service_quota, **g) == "NoSuchResourceException"
    assert quotas.get_aws_default_service_quota(**g)["Quota"]["Value"] >= 100_000
    with pytest.raises(quotas.exceptions.NoSuchResourceException):
        quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode="L-00000000")
    assert refused(quotas.get_service_quota, ServiceCode="s3", QuotaCode="L-417A185B") == "NoSuchResourceException"


def test_quotas_are_listed_in_pages_those_that_were_set(fake: FakeEc2) -> None:
    fake.account.quotas |= {("P", "on-demand"): 96, ("P", "spot"): 64, ("Standard", "on-demand"): 32}
    quotas = client(fake, "service-quotas")
    paginator = quotas.get_paginator("list_service_quotas")
    pages = list(paginator.paginate(ServiceCode="ec2", PaginationConfig={"PageSize": 2}))
    found = {q["QuotaCode"]: q["Value"] for page in pages for q in page["Quotas"]}

    assert [len(page["Quotas"]) for page in pages] == [2, 2, 1]
    assert found.pop("L-0263D0A3") == 5.0
    assert found == {"L-417A185B": 96.0, "L-7212CCBC": 64.0, "L-C4BD4855": 64.0, "L-1216C47A": 32.0}
    assert refused(quotas.list_service_quotas, ServiceCode="none") == "NoSuchResourceException"
    wrong = {"ServiceCode": "ec2", "NextToken": "abcd"}
    assert refused(quotas.list_service_quotas, **wrong) == "InvalidPaginationTokenException"


def test_the_codes_of_quotas_are_those_that_the_provider_knows() -> None:
    from falplan.sdk.testing.fakeec2.limits import QUOTAS
    from falplan_providers.aws.quotas import CODES

    assert set(CODES.values()) <= QUOTAS.keys()


# -- prices -----------------------------------------------------------------------------------------------------------------

FILTERS = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}


def products(pricing: Any, wanted: dict[str, str], **more: Any) -> list[dict[str, Any]]:
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    pages = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters, **more)
    return [json.loads(text) for page in pages for text in page["PriceList"]]


def price(product: dict[str, Any]) -> Decimal:
    [term] = product["terms"]["OnDemand"].values()
    [dimension] = term["priceDimensions"].values()
    return Decimal(dimension["pricePerUnit"]["USD"])


def test_prices_are_the_catalogs_for_who_filters_enough(fake: FakeEc2) -> None:
    found = products(client(fake, "pricing"), {**FILTERS, "regionCode": "us-east-1"})

    told = {p["product"]["attributes"]["instanceType"]: price(p) for p in found}
    assert told == {t.name: t.price for t in fake.account.catalog.types}
    assert len(found) == len(told)


def test_who_filters_too_little_gets_what_costs_something_else(fake: FakeEc2) -> None:
    pricing = client(fake, "pricing")
    found = products(pricing, {"instanceType": "p5.4xlarge"})
    without = {name: value for name, value in FILTERS.items() if name != "marketoption"}

    assert price(found[0]) == 0
    assert len({price(p) for p in found}) > 3
    assert sorted(price(p) for p in products(pricing, {**without, "instanceType": "p5.4xlarge"})) == [
        0,
        Decimal("6.88"),
    ]


def test_prices_come_in_pages(fake: FakeEc2) -> None:
    pricing = client(fake, "pricing")
    whole = products(pricing, FILTERS)

    assert products(pricing, FILTERS, PaginationConfig={"PageSize": 4}) == whole
    assert len(fake.calls_of("GetProducts")) == 1 + -(-len(whole) // 4)
    asked = {"ServiceCode": "AmazonEC2", "NextToken": "x"}
    assert refused(pricing.get_products, **asked) == "InvalidNextTokenException"


def test_prices_are_told_in_three_regions(fake: FakeEc2) -> None:
    asked = {"ServiceCode": "AmazonEC2"}
    for region in ("us-east-1", "eu-central-1", "ap-south-1"):
        assert client(fake, "pricing", region).get_products(**asked)["PriceList"]

    assert refused(client(fake, "pricing", "us-west-2").get_products, **asked) == "InvalidSignatureException"
    assert refused(client(fake, "pricing").get_products, ServiceCode="AmazonNone") == "NotFoundException"
    filters = [{"Type": "CONTAINS", "Field": "instanceType", "Value": "p5"}]
    assert refused(client(fake, "pricing").get_products, **asked, Filters=filters) == "InvalidParameterException"


# -- what they have in common -------------------------------------------------------------------------------------------------

EASY: dict[str, tuple[str, dict[str, str]]] = {
    "ec2": ("describe_vpcs", {}),
    "iam": ("list_roles", {}),
    "ssm": ("get_parameter", {"Name": CPU}),
    "service-quotas": ("list_service_quotas", {"ServiceCode": "ec2"}),
    "pricing": ("get_products", {"ServiceCode": "AmazonEC2"}),
}
REFUSALS = {
    "ec2": ("AuthFailure", "RequestExpired", "UnauthorizedOperation", "RequestLimitExceeded"),
    "iam": ("InvalidClientTokenId", "ExpiredToken", "AccessDenied", "Throttling"),
    "ssm": ("UnrecognizedClientException", "ExpiredTokenException", "AccessDeniedException", "ThrottlingException"),
}
REFUSALS |= dict.fromkeys(("service-quotas", "pricing"), REFUSALS["ssm"])


@pytest.mark.parametrize("service", EASY)
def test_each_service_refuses_callers_with_codes_of_its_own(fake: FakeEc2, service: str) -> None:
    name, asked = EASY[service]
    call = getattr(client(fake, service), name)
    call(**asked)
    codes = []
    for credential in (Credential(until=fake.account.now), Credential(denied=("*",))):
        fake.account.credentials["AKIAFAKE"] = credential
        codes.append(refused(call, **asked))
    fake.account.credentials["AKIAFAKE"] = Credential()
    fake.account.buckets["*"] = Bucket(size=0, refill=0)
    codes.append(refused(call, **asked))
    fake.account.credentials["AKIAOTHER"] = fake.account.credentials.pop("AKIAFAKE")

    assert (refused(call, **asked), *codes) == REFUSALS[service]


@pytest.mark.parametrize("service", EASY)
def test_faults_strike_each_service_and_every_call_is_in_the_journal(fake: FakeEc2, service: str) -> None:
    name, asked = EASY[service]
    found = client(fake, service)
    action = found.meta.method_to_api_mapping[name]
    fake.account.faults += [Fault(action, Strike.DROP), Fault(action, Strike.DONE_ERROR, nth=2, code="Unlucky")]
    with pytest.raises(HTTPClientError):
        getattr(found, name)(**asked)

    assert refused(getattr(found, name), **asked) == "Unlucky"
    calls = [(c.service, c.action, c.code, c.done) for c in fake.account.calls]
    assert calls == [(service, action, "InternalError", False), (service, action, "Unlucky", True)]
    assert fake.account.calls[-1].parameters == asked


def test_a_lost_answer_of_iam_is_found_to_be_done(fake: FakeEc2) -> None:
    fake.account.faults.append(Fault("CreateInstanceProfile", Strike.DONE_DROP))
    iam = client(fake, "iam")
    with pytest.raises(HTTPClientError):
        iam.create_instance_profile(InstanceProfileName="hosts")

    assert refused(iam.create_instance_profile, InstanceProfileName="hosts") == "EntityAlreadyExists"


def test_every_answer_has_the_types_that_botocores_models_say(fake: FakeEc2) -> None:
    fake.account.quotas["G", "spot"] = 8
    ec2, iam = client(fake), client(fake, "iam")
    trust = json.dumps({"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]})
    role = iam.create_role(RoleName="hosts", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.create_instance_profile(InstanceProfileName="hosts")
    iam.add_role_to_instance_profile(InstanceProfileName="hosts", RoleName="hosts")
    ec2.allocate_address()
    pool = {"InstanceType": "g6.xlarge", "AvailabilityZone": "us-east-1a", "InstanceMatchCriteria": "targeted"}
    ec2.create_capacity_reservation(**pool, InstancePlatform="Linux/UNIX", InstanceCount=1)
    listings: list[tuple[str, str, dict[str, str]]] = [(s, name, asked) for s, (name, asked) in EASY.items()]
    listings += [
        ("ec2", "describe_addresses", {}),
        ("ec2", "describe_capacity_reservations", {}),
        ("iam", "list_instance_profiles", {}),
        ("sts", "get_caller_identity", {}),
        ("sts", "assume_role", {"RoleArn": role, "RoleSessionName": "falplan"}),
        ("service-quotas", "get_service_quota", {"ServiceCode": "ec2", "QuotaCode": "L-3819A6DF"}),
    ]
    for service, name, asked in listings:
        found = client(fake, service)
        answer = getattr(found, name)(**asked)
        answer.pop("ResponseMetadata")
        shape = model(service).operation_model(found.meta.method_to_api_mapping[name]).output_shape
        for role_told in _roles(answer):
            role_told["AssumeRolePolicyDocument"] = json.dumps(role_told["AssumeRolePolicyDocument"])  # boto3 reads it
        assert any(answer.values()), f"{name} told nothing: the test proves nothing"
        assert not ParamValidator().validate(answer, shape).has_errors(), name


def _roles(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = list(answer.get("Roles", ()))
    for profile in answer.get("InstanceProfiles", ()):
        found += profile["Roles"]
    return found


def test_what_a_model_demands_is_missed(fake: FakeEc2) -> None:
    iam = client(fake, "iam", check=False)
    quotas = client(fake, "service-quotas", check=False)

    with pytest.raises(ClientError, match=r"2 validation errors .*'assumeRolePolicyDocument'.* must not be null"):
        iam.create_role()
    tags = [{"Key": "x"}]
    assert refused(iam.create_instance_profile, InstanceProfileName="hosts", Tags=tags) == "ValidationError"
    assert refused(quotas.get_service_quota, ServiceCode="ec2") == "ValidationException"


def test_what_the_models_do_not_know_is_no_request_and_no_answer(fake: FakeEc2) -> None:
    for service in SERVICES.values():
        assert set(service.actions) <= set(model(service.name).operation_names)
    with pytest.raises(Ec2Error, match="UnknownParameter"):
        read("GetRole", {"RoleNames": "x"}, "iam")
    with pytest.raises(Ec2Error, match="Unexpected field"):
        jsonwire.read("GetParameter", b'{"Names": "x"}', "ssm")
    for body in (b'{"Name": 1}', b"[]", b"no JSON"):
        with pytest.raises(Ec2Error, match="SerializationException"):
            jsonwire.read("GetParameter", body, "ssm")
    with pytest.raises(KeyError):
        write("GetRole", {"Nowhere": 1}, "r", "iam")
    with pytest.raises(KeyError):
        jsonwire.write("GetParameter", {"Nowhere": 1}, "ssm")
    with pytest.raises(ClientError, match="This fake does not know ListUsers"):
        client(fake, "iam").list_users()
    assert refused(client(fake, "ssm").describe_parameters) == "UnsupportedOperation"
    assert refused(client(fake, "sns").list_topics) == "InvalidAction"
