"""S3 as a store of state uses it: objects written on condition, and every error told for people. Knows no state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from falplan import clock
from falplan.core.errors import FalplanError, Refused

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONFLICTS = 5
"""Tries of a write that S3 asks to repeat because another one is under way."""
AT_A_TIME = 8
"""Connections."""
MISSING = frozenset(("NoSuchKey", "404", "NotFound"))
REFUSED = frozenset(("PreconditionFailed", "412"))


@dataclass(frozen=True, slots=True)
class Where:
    """An object's bucket and key, and how to get there. `endpoint_url` is empty for AWS itself."""

    bucket: str
    key: str
    region: str = ""
    endpoint_url: str = ""
    profile: str = ""

    @property
    def text(self) -> str:
        at = f" at {self.endpoint_url}" if self.endpoint_url else ""
        return f"s3://{self.bucket}/{self.key}{at}"


@dataclass(frozen=True, slots=True)
class Object:
    """One object. `age` is the seconds since it was written, by the server's own clock; `written_at` RFC 3339 in UTC."""

    content: bytes
    etag: str
    age: float
    written_at: str


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing says of an object."""

    key: str
    size: int
    written_at: str


class Bucket:
    """Objects of one bucket, beside the key of the state.

    Raises, in every method: FalplanError when the bucket can't be reached or used; Refused when trying again does not help.
    """

    def __init__(self, where: Where) -> None:
        self.where = where
        self._client: Any = None

    def get(self, key: str) -> Object | None:
        """None if there is none."""
        try:
            answer = self._call("get_object", Key=key)
            return _object(answer, answer["Body"].read())
        except _Missing:
            return None

    def get_all(self, keys: Sequence[str]) -> list[Object | None]:
        """Several, in the order of the keys."""
        from concurrent.futures import ThreadPoolExecutor

        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(self.get, keys))

    def etag(self, key: str) -> str | None:
        """The version of what is there."""
        try:
            return str(self._call("head_object", Key=key)["ETag"])
        except _Missing:
            return None

    def put(self, key: str, content: bytes, *, expected: str | None) -> str | None:
        """Write on condition that the version is `expected` (None: that there is nothing). Returns the new version; None if it is not so.

        A first try whose answer was lost may have done it: the second one then finds what this call wrote, by its id.
        """
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        mark = clock.new_uuid()
        for _ in range(CONFLICTS):
            try:
                answer = self._call("put_object", Key=key, Body=content, Metadata={"write": mark}, **condition)
                return str(answer["ETag"])
            except _Conflict:
                continue
            except (_Refused, _Missing):
                return self._mine(key, mark)
        raise FalplanError("The state's bucket is busy", f"{self.where.text}: it refused {CONFLICTS} times. Try again.")

    def _mine(self, key: str, mark: str) -> str | None:
        try:
            found = self._call("head_object", Key=key)
        except _Missing:
            return None
        return str(found["ETag"]) if found.get("Metadata", {}).get("write") == mark else None

    def ignores_conditions(self, key: str, etag: str) -> str:
        """The condition that this endpoint does not heed, tried on an object that is ours; empty if it heeds all."""
        found = self.get(key)
        content = found.content if found else b""
        if self.put(key, content, expected=None) is not None:
            return "If-None-Match"
        if self.put(key, content, expected='"00000000000000000000000000000000"') is not None:
            return "If-Match"
        return ""

    def copy(self, source: str, target: str) -> None:
        """A copy made by the server; none of what is not there."""
        try:
            self._call("copy_object", Key=target, CopySource={"Bucket": self.where.bucket, "Key": source})
        except _Missing:
            return

    def listed(self, prefix: str, *, limit: int = 0) -> Iterator[Listed]:
        """Objects whose keys begin so, by key."""
        more: dict[str, Any] = {"MaxKeys": limit} if limit else {}
        while True:
            answer = self._call("list_objects_v2", Prefix=prefix, **more)
            for item in answer.get("Contents", []):
                yield Listed(item["Key"], int(item["Size"]), _time(item["LastModified"]))
            if limit or not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, keys: list[str]) -> None:
        """Remove objects, a thousand a call."""
        for first in range(0, len(keys), 1000):
            some = [{"Key": key} for key in keys[first : first + 1000]]
            self._call("delete_objects", Delete={"Objects": some, "Quiet": True})

    def _call(self, name: str, **given: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._client is None:
                self._client = _client(self.where)
            return getattr(self._client, name)(Bucket=self.where.bucket, **given)
        except ClientError as exc:
            raise _told(exc, self.where) from exc
        except (BotoCoreError, ValueError) as exc:
            raise _unreachable(exc, self.where) from exc


class _Missing(Exception):
    """There is no such object."""


class _Refused(Exception):
    """The condition does not hold."""


class _Conflict(FalplanError):
    """Another write is under way; S3 wants this one again."""


def _client(where: Where) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.Session(profile_name=where.profile or None, region_name=where.region or None)
    own = bool(where.endpoint_url)
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "max_attempts": 4},
        s3={"addressing_style": "path"} if own else {},
        request_checksum_calculation="when_required",  # other S3 servers do not know the newer kinds
        response_checksum_validation="when_required",
        max_pool_connections=AT_A_TIME,
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=where.endpoint_url or None, region_name=region, config=config)


def _object(answer: Mapping[str, Any], content: bytes) -> Object:
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    written: datetime = answer["LastModified"]
    now = parsedate_to_datetime(headers["date"]) if "date" in headers else written
    return Object(content, str(answer["ETag"]), (now - written).total_seconds(), _time(written))


def _time(moment: datetime) -> str:
    return clock.timestamp(moment.timestamp())


def _told(error: ClientError, where: Where) -> Exception:
    """What an answer of S3 means. HEAD has no body: its codes are numbers."""
    answer: Any = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in MISSING or (status == 404 and code != "NoSuchBucket"):
        return _Missing()
    if code in REFUSED or status == 412:
        return _Refused()
    if code == "ConditionalRequestConflict" or status == 409:
        return _Conflict("The state's bucket is busy", f"{where.text}: another write is under way. Try again.")
    said = f"{where.text}: {code or status}: {answer.get('Error', {}).get('Message', '')}".rstrip(": .")
    summary, next_step = _meaning(code, status, where)
    kind = FalplanError if status >= 500 or code in ("SlowDown", "RequestTimeout") else Refused
    return kind(summary, f"{said}. {next_step}")


def _meaning(code: str, status: int, where: Where) -> tuple[str, str]:
    if code == "NoSuchBucket":
        return "The state's bucket is missing", (
            f"Make it (aws s3 mb s3://{where.bucket}, with versioning), or correct `bucket:` under `state:`. falplan never makes one."
        )
    if code in (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    ) or status in (301, 307):
        return "The state's bucket is in another region", "Correct `region:` under `state:`."
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure"):
        return (
            "The credentials for the state's bucket are wrong",
            "Look at AWS_ACCESS_KEY_ID, AWS_PROFILE or `profile:`.",
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"):
        return "The credentials for the state's bucket have expired", "Renew them (aws sso login), then try again."
    if code == "RequestTimeTooSkewed":
        return (
            "This machine's clock is wrong",
            "S3 refuses requests that are off by more than 15 minutes. Set the clock.",
        )
    if code in ("NotImplemented", "MethodNotAllowed") or status == 501:
        return "The S3 server lacks what falplan needs", "It must heed If-Match and If-None-Match in PutObject."
    if status == 403 or code == "AccessDenied":
        return "The state's bucket may not be used", (
            "Allow s3:GetObject, s3:PutObject and s3:DeleteObject on the key and what begins with it, and s3:ListBucket on the bucket."
        )
    return "The state's bucket can't be used", "Try again; if it stays so, ask who runs the bucket."


def _unreachable(error: Exception, where: Where) -> FalplanError:
    from botocore import exceptions as known

    said = f"{where.text}: {error}"
    if isinstance(error, (known.NoCredentialsError, known.PartialCredentialsError)):
        next_step = (
            "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a `profile:` under `state:`."
        )
        return Refused("There are no credentials for the state's bucket", f"{said}. {next_step}")
    if isinstance(error, known.ProfileNotFound):
        return Refused("There is no such AWS profile", f"{said}. Correct `profile:` or AWS_PROFILE; see ~/.aws/config.")
    if isinstance(error, (known.SSOError, known.CredentialRetrievalError, known.TokenRetrievalError)):
        return Refused("There are no credentials for the state's bucket", f"{said}. Log in again: aws sso login.")
    if isinstance(error, (known.ParamValidationError, ValueError)):
        return Refused("The place of the state is not one", f"{said}. Correct what stands under `state:`.")
    return FalplanError(
        "The state's bucket can't be reached", f"{said}. Look at the network and `endpoint_url:`, then try again."
    )
