"""What falplan has to be allowed at AWS, as a policy of IAM, and nothing more: who applies, and the control plane that buys. Asks nobody.

What carries no mark of falplan's can't be changed or ended with it, whatever else goes wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from falplan.core.values import Json, JsonObject

from .tags import OWNER

LOOKS = (
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:DescribeLaunchTemplates",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
    "ssm:GetParameter",
)
"""Reading; EC2 knows no narrower right to list."""
MADE_BY_LAUNCH = ("instance", "volume", "network-interface", "spot-instances-request")
LAUNCHED_FROM = ("image", "snapshot", "subnet", "security-group", "launch-template", "key-pair")
GROUPS = (
    "ec2:AuthorizeSecurityGroupEgress",
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:DeleteSecurityGroup",
    "ec2:RevokeSecurityGroupEgress",
    "ec2:RevokeSecurityGroupIngress",
)
TEMPLATES = ("ec2:CreateLaunchTemplateVersion", "ec2:DeleteLaunchTemplate", "ec2:ModifyLaunchTemplate")
ANY = "*"
"""An owner: whichever project it is."""


def control_plane(owner: str = ANY, profile_role: str = "") -> JsonObject:
    """For the credentials of a control plane. `profile_role` is the ARN of the role that machines get, empty for none."""
    passing = _statement("PassTheMachinesRole", ["iam:PassRole"], [profile_role]) if profile_role else None
    return _policy(
        [
            _statement("Look", LOOKS),
            _statement("LaunchWhatIsMarked", ["ec2:RunInstances"], _arns(MADE_BY_LAUNCH), _asked(owner)),
            _statement("LaunchFrom", ["ec2:RunInstances"], _arns(LAUNCHED_FROM)),
            _statement("MarkAtLaunch", ["ec2:CreateTags"], _arns(MADE_BY_LAUNCH), _while_making("RunInstances")),
            _statement("EndItsOwn", ["ec2:TerminateInstances"], _arns(["instance"]), _marked(owner)),
            _statement("ReadItsOwnConsoles", ["ec2:GetConsoleOutput"], _arns(["instance"]), _marked(owner)),
            *([passing] if passing else []),
        ]
    )


def applying(owner: str = ANY) -> JsonObject:
    """For whoever plans and applies. It ends machines, too, should their control plane be dead; it buys none."""
    made = ("security-group", "launch-template")
    return _policy(
        [
            _statement("Look", LOOKS),
            _statement("MakeGroups", ["ec2:CreateSecurityGroup"], _arns(["security-group"]), _asked(owner)),
            _statement("MakeGroupsIn", ["ec2:CreateSecurityGroup"], _arns(["vpc"])),
            _statement("MakeTemplates", ["ec2:CreateLaunchTemplate"], _arns(["launch-template"]), _asked(owner)),
            _statement(
                "MarkWhatIsMade",
                ["ec2:CreateTags"],
                _arns(made),
                _while_making("CreateSecurityGroup", "CreateLaunchTemplate"),
            ),
            _statement("ChangeItsOwn", [*GROUPS, *TEMPLATES], _arns(made), _marked(owner)),
            _statement("MarkItsOwnAnew", ["ec2:CreateTags", "ec2:DeleteTags"], _arns(made), _marked(owner)),
            _statement("EndItsOwn", ["ec2:TerminateInstances"], _arns(["instance"]), _marked(owner)),
        ]
    )


def actions(policy: JsonObject) -> frozenset[str]:
    """All that a policy allows, as `ec2:RunInstances`."""
    statements = cast("list[dict[str, list[str]]]", policy["Statement"])
    return frozenset(action for statement in statements for action in statement["Action"])


def _policy(statements: Sequence[JsonObject]) -> JsonObject:
    return {"Version": "2012-10-17", "Statement": list[Json](statements)}


def _statement(
    name: str, allowed: Sequence[str], resources: Sequence[str] = (ANY,), condition: JsonObject | None = None
) -> JsonObject:
    body: JsonObject = {
        "Sid": name,
        "Effect": "Allow",
        "Action": list[Json](allowed),
        "Resource": list[Json](resources),
    }
    return {**body, "Condition": condition} if condition else body


def _arns(kinds: Sequence[str]) -> list[str]:
    return [f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds]


def _asked(owner: str) -> JsonObject:
    """Only with the mark, from the very request on that makes it."""
    return _tagged("aws:RequestTag", owner)


def _marked(owner: str) -> JsonObject:
    return _tagged("aws:ResourceTag", owner)


def _tagged(key: str, owner: str) -> JsonObject:
    name = f"{key}/{OWNER}"
    return {"Null": {name: "false"}} if owner == ANY else {"StringEquals": {name: owner}}


def _while_making(*calls: str) -> JsonObject:
    return {"StringEquals": {"ec2:CreateAction": list[Json](calls)}}
