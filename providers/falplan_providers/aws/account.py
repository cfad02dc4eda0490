"""One account in one region, by boto3: calls, pages, and errors told for people. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from falplan.core.errors import FalplanError
from falplan.sdk.resources import Denied
from falplan.sdk.shell import Unreachable

from .answers import EXPIRED, PERMISSION

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

ONCE = {"mode": "standard", "total_max_attempts": 1}
"""botocore takes a pool without capacity, which EC2 answers with status 500, for a fault that passes: it would ask it five times."""
PRICE_LIST = "us-east-1"
PATIENT = {"mode": "adaptive", "max_attempts": 8}


@dataclass(frozen=True, slots=True)
class Access:
    """How the account is reached. `region` is AWS's name; `profile` one of ~/.aws/config; `role` an ARN to assume, `external` the id that
    its owner asks for; `endpoints` are URLs by service, for what speaks AWS's API elsewhere. What is empty is as boto3 finds it.
    """

    region: str
    profile: str = ""
    role: str = ""
    external: str = ""
    endpoints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error: AWS's code and words, and the HTTP status."""

    code: str
    words: str
    status: int

    @property
    def text(self) -> str:
        return f"{self.code}: {self.words}" if self.code else self.words


class Refused(FalplanError):
    """A call was refused for another reason than its credentials. `code` is AWS's word for it."""

    def __init__(self, summary: str, detail: str, code: str) -> None:
        super().__init__(summary, detail)
        self.code = code


class Account:
    """Calls as whoever has the credentials. Clients are made when they are first used, and are used by several threads.

    Raises, in every method that calls: Denied when the credentials are missing, refused or expired; Unreachable when nothing is answered;
    Refused for every other refusal.
    """

    def __init__(self, access: Access) -> None:
        self.access = access

    @cached_property
    def _session(self) -> Any:
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            session = boto3.Session(profile_name=self.access.profile or None, region_name=self.access.region)
        except BotoCoreError as exc:
            raise _denied(self.access, str(exc)) from exc
        return _assumed(session, self.access) if self.access.role else session

    def _client(self, service: str, retries: Mapping[str, Any], region: str = "") -> Any:
        from botocore.config import Config

        config = Config(retries=dict(retries), connect_timeout=5, read_timeout=30, max_pool_connections=16)
        url = self.access.endpoints.get(service) or None
        return self._session.client(service, config=config, endpoint_url=url, region_name=region or self.access.region)

    @cached_property
    def _launching(self) -> Any:
        return self._client("ec2", ONCE)

    @cached_property
    def _ec2(self) -> Any:
        return self._client("ec2", PATIENT)

    @cached_property
    def number(self) -> str:
        """The account's number."""
        client = self._client("sts", PATIENT)
        return str(self._call(client.get_caller_identity)["Account"])

    @cached_property
    def _ssm(self) -> Any:
        return self._client("ssm", PATIENT)

    def parameter(self, path: str) -> str:
        """The value of a parameter of SSM."""
        return str(self._call(self._ssm.get_parameter, Name=path)["Parameter"]["Value"])

    def products(self, wanted: Sequence[Mapping[str, str]]) -> Iterator[str]:
        """Products of EC2 in AWS's price list, each as JSON. The list is kept in a few regions, and holds all of them."""
        client = self._client("pricing", PATIENT, PRICE_LIST)
        asked: dict[str, Any] = {"ServiceCode": "AmazonEC2", "Filters": list(wanted), "FormatVersion": "aws_v1"}
        while True:
            page = self._call(client.get_products, **asked)
            yield from page["PriceList"]
            if not page.get("NextToken"):
                return
            asked["NextToken"] = page["NextToken"]

    def ec2(self, action: str, **asked: Any) -> dict[str, Any]:
        """One call of EC2, by boto3's name of it."""
        told: dict[str, Any] = self._call(getattr(self._ec2, action), **asked)
        return told

    def pages(self, action: str, key: str, **asked: Any) -> Iterator[Any]:
        """What all pages of a description hold under a key, as they come."""
        paginator = self._ec2.get_paginator(action)
        pages = iter(paginator.paginate(**asked))
        while True:
            page = self._call(lambda: next(pages, None))
            if page is None:
                return
            yield from page.get(key, ())

    def launch(self, request: Mapping[str, Any]) -> dict[str, Any] | Refusal:
        """Send RunInstances once: the instance it tells of, or what was answered in its place.

        Raises:
            Unreachable: nothing was answered; it may have been made.
        """
        from botocore.exceptions import ClientError

        try:
            told = self._call(self._launching.run_instances, raw=True, **request)
        except ClientError as exc:
            return _refusal(exc)
        [made] = told["Instances"]
        return dict(made)

    def _call(self, function: Any, *, raw: bool = False, **asked: Any) -> Any:
        from botocore import exceptions

        try:
            return function(**asked)
        except exceptions.ClientError as exc:
            if raw:
                raise
            self._tell(_refusal(exc), exc)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as exc:
            raise _denied(self.access, str(exc)) from exc
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as exc:
            text = f"{self.access.region} did not answer: {exc}"
            raise Unreachable("AWS can't be reached", text) from exc
        except exceptions.BotoCoreError as exc:
            if _is_of_login(exc):
                raise _denied(self.access, str(exc)) from exc
            raise FalplanError("AWS could not be asked", f"{self.access.region}: {exc}") from exc

    def _tell(self, refusal: Refusal, exc: ClientError) -> NoReturn:
        if refusal.code in PERMISSION:
            raise _denied(self.access, f"{exc.operation_name} in {self.access.region}: {refusal.text}") from exc
        raise Refused(
            "AWS refused", f"{exc.operation_name} in {self.access.region}: {refusal.text}", refusal.code
        ) from exc


def _refusal(exc: ClientError) -> Refusal:
    error = exc.response.get("Error", {})
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return Refusal(str(error.get("Code", "")), str(error.get("Message", "")), status)


def denied(access: Access, refusal: Refusal) -> Denied:
    """The error of a call that these credentials may not make."""
    return _denied(access, f"{access.region}: {refusal.text}")


def _denied(access: Access, said: str) -> Denied:
    if any(code in said for code in EXPIRED) or "expired" in said.lower():
        sso = f" (`aws sso login{f' --profile {access.profile}' if access.profile else ''}` if they come from SSO)"
        return Denied("The AWS credentials have expired", f"{said}. Renew them{sso}, then go on.")
    way_out = (
        "`aws sts get-caller-identity` tells whose they are; `falplan aws policy` prints what they have to be allowed."
    )
    return Denied("The AWS credentials are refused", f"{said}. {way_out}")


def _is_of_login(exc: Exception) -> bool:
    """Whether credentials could not be had: SSO, a process, a role."""
    names = ("SSO", "Token", "Credential", "Login", "AssumeRole", "ProfileNotFound")
    return any(word in type(exc).__name__ for word in names)


def _assumed(session: Any, access: Access) -> Any:
    """A session whose credentials are those of a role, and are renewed before they expire."""
    import boto3
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
    from botocore.session import get_session

    def client(service: str, **more: Any) -> Any:
        url = access.endpoints.get(service) or None
        return session.client(service, **{**more, "endpoint_url": url, "region_name": access.region})

    extra = {"RoleSessionName": "falplan", **({"ExternalId": access.external} if access.external else {})}
    fetcher = AssumeRoleCredentialFetcher(client, session.get_credentials(), access.role, extra_args=extra)
    own = get_session()
    own._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    return boto3.Session(botocore_session=own, region_name=access.region)
