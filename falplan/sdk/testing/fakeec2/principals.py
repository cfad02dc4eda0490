"""Roles and instance profiles as IAM keeps them, and where a caller finds them."""

from __future__ import annotations

from dataclasses import dataclass, field

from falplan.sdk.testing.fakeec2.things import Tags


@dataclass(slots=True)
class Role:
    """`trust` and `policies` are documents of JSON, as they were given; `attached` ARNs of managed policies. Its documents decide nothing:
    `denied` are patterns of actions that its sessions may not call."""

    name: str
    id: str
    arn: str
    path: str
    made_at: float
    trust: str
    description: str = ""
    longest: int = 3600  #: seconds that a session of it may last
    tags: Tags = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    attached: list[str] = field(default_factory=list)
    denied: tuple[str, ...] = ()


@dataclass(slots=True)
class Profile:
    """An instance profile. `role` is the name of its only role, since `changed_at`."""

    name: str
    id: str
    arn: str
    path: str
    made_at: float
    tags: Tags = field(default_factory=dict)
    role: str = ""
    changed_at: float = 0.0


MANAGED = (
    "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore",
    "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly",
    "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",
    "arn:aws:iam::aws:policy/CloudWatchAgentServerPolicy",
)
"""Policies of AWS's own that a role may have."""
