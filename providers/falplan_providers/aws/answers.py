"""What EC2's errors mean for a launch. The codes are those of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"""

from __future__ import annotations

from falplan.sdk.launches import Verdict

CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientCapacityOnHost",
        "UnfulfillableCapacity",
        "SpotMaxPriceTooLow",
        "ReservationCapacityExceeded",
    }
)
QUOTA = frozenset(
    {
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "PendingVerification",
    }
)
PERMISSION = frozenset(
    {
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "Blocked",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
BUSY = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "InsufficientAddressCapacity",
        "ResourceCountExceeded",
    }
)
AMBIGUOUS = frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "ServerInternal", "Unavailable"})
ENDED = "IdempotentInstanceTerminated"
MISMATCH = "IdempotentParameterMismatch"
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})

STILLBORN = frozenset({"Server.InsufficientInstanceCapacity", "Server.InternalError", "Server.SpotInstanceTermination"})
"""Reasons of a state with which a machine that never ran says that its pool had no room."""


def judge(code: str, status: int, *, again: bool) -> Verdict:
    """What an error that RunInstances answered says; an empty `code` is no answer at all.

    `again`: the same request was sent before, and nobody knows what became of that.
    EC2 looks for a client token before it launches anything, so that a second answer about capacity or quota proves that the first
    request made nothing. Credentials and parameters are checked before that, and what is wrong with them proves nothing about it.
    """
    if code == ENDED:
        return Verdict.ENDED
    if code in CAPACITY:
        return Verdict.CAPACITY
    if code in QUOTA:
        return Verdict.QUOTA
    if code == "Unsupported":
        return Verdict.NOT_OFFERED
    if not code or code in BUSY or code in AMBIGUOUS or code == MISMATCH or code.startswith("Server.") or status >= 500:
        return Verdict.UNKNOWN
    if again:
        return Verdict.UNKNOWN
    return Verdict.PERMISSION if code in PERMISSION or status in (401, 403) else Verdict.PARAMETER
