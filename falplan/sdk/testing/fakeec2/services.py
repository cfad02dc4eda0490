"""What the fake does, service by service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from falplan.sdk.testing.fakeec2 import (
    addresses,
    callers,
    consoles,
    describing,
    limits,
    networks,
    offering,
    parameters,
    policies,
    prices,
    profiles,
    reserving,
    roles,
    running,
    templates,
)
from falplan.sdk.testing.fakeec2.account import Account

Act = Callable[[Account, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Service:
    """One of AWS's services. `name` is botocore's, `regions` are those where it is, everywhere if there are none."""

    name: str
    actions: Mapping[str, Act]
    regions: frozenset[str] = frozenset()


EC2: Mapping[str, Act] = {
    "RunInstances": running.run_instances,
    "DescribeInstances": describing.describe_instances,
    "TerminateInstances": running.terminate_instances,
    "ModifyInstanceAttribute": running.modify_instance_attribute,
    "DescribeVolumes": describing.describe_volumes,
    "CreateLaunchTemplate": templates.create_launch_template,
    "CreateLaunchTemplateVersion": templates.create_launch_template_version,
    "ModifyLaunchTemplate": templates.modify_launch_template,
    "DescribeLaunchTemplates": templates.describe_launch_templates,
    "DescribeLaunchTemplateVersions": templates.describe_launch_template_versions,
    "DeleteLaunchTemplate": templates.delete_launch_template,
    "ImportKeyPair": templates.import_key_pair,
    "DescribeKeyPairs": templates.describe_key_pairs,
    "DeleteKeyPair": templates.delete_key_pair,
    "CreateSecurityGroup": networks.create_security_group,
    "DescribeSecurityGroups": networks.describe_security_groups,
    "DeleteSecurityGroup": networks.delete_security_group,
    "AuthorizeSecurityGroupIngress": networks.authorize("in"),
    "AuthorizeSecurityGroupEgress": networks.authorize("out"),
    "RevokeSecurityGroupIngress": networks.revoke("in"),
    "RevokeSecurityGroupEgress": networks.revoke("out"),
    "CreateTags": networks.create_tags,
    "DeleteTags": networks.delete_tags,
    "DescribeTags": networks.describe_tags,
    "DescribeInstanceTypes": offering.describe_instance_types,
    "DescribeInstanceTypeOfferings": offering.describe_instance_type_offerings,
    "DescribeAvailabilityZones": offering.describe_availability_zones,
    "DescribeSubnets": offering.describe_subnets,
    "DescribeVpcs": offering.describe_vpcs,
    "DescribeImages": offering.describe_images,
    "DescribeSpotPriceHistory": offering.describe_spot_price_history,
    "GetConsoleOutput": consoles.get_console_output,
    "AllocateAddress": addresses.allocate_address,
    "DescribeAddresses": addresses.describe_addresses,
    "AssociateAddress": addresses.associate_address,
    "DisassociateAddress": addresses.disassociate_address,
    "ReleaseAddress": addresses.release_address,
    "CreateCapacityReservation": reserving.create_capacity_reservation,
    "DescribeCapacityReservations": reserving.describe_capacity_reservations,
    "CancelCapacityReservation": reserving.cancel_capacity_reservation,
}

IAM: Mapping[str, Act] = {
    "CreateRole": roles.create_role,
    "GetRole": roles.get_role,
    "ListRoles": roles.list_roles,
    "UpdateAssumeRolePolicy": roles.update_assume_role_policy,
    "DeleteRole": roles.delete_role,
    "TagRole": roles.tag_role,
    "UntagRole": roles.untag_role,
    "ListRoleTags": roles.list_role_tags,
    "PutRolePolicy": policies.put_role_policy,
    "GetRolePolicy": policies.get_role_policy,
    "ListRolePolicies": policies.list_role_policies,
    "DeleteRolePolicy": policies.delete_role_policy,
    "AttachRolePolicy": policies.attach_role_policy,
    "DetachRolePolicy": policies.detach_role_policy,
    "ListAttachedRolePolicies": policies.list_attached_role_policies,
    "CreateInstanceProfile": profiles.create_instance_profile,
    "GetInstanceProfile": profiles.get_instance_profile,
    "ListInstanceProfiles": profiles.list_instance_profiles,
    "AddRoleToInstanceProfile": profiles.add_role_to_instance_profile,
    "RemoveRoleFromInstanceProfile": profiles.remove_role_from_instance_profile,
    "DeleteInstanceProfile": profiles.delete_instance_profile,
    "TagInstanceProfile": profiles.tag_instance_profile,
    "ListInstanceProfileTags": profiles.list_instance_profile_tags,
}

STS: Mapping[str, Act] = {
    "GetCallerIdentity": callers.get_caller_identity,
    "AssumeRole": callers.assume_role,
}

SSM: Mapping[str, Act] = {
    "GetParameter": parameters.get_parameter,
    "GetParameters": parameters.get_parameters,
}

QUOTAS: Mapping[str, Act] = {
    "GetServiceQuota": limits.get_service_quota,
    "GetAWSDefaultServiceQuota": limits.get_default_service_quota,
    "ListServiceQuotas": limits.list_service_quotas,
}

SERVICES: Mapping[str, Service] = {
    "ec2": Service("ec2", EC2),
    "iam": Service("iam", IAM),
    "sts": Service("sts", STS),
    "ssm": Service("ssm", SSM),
    "servicequotas": Service("service-quotas", QUOTAS),
    "pricing": Service("pricing", {"GetProducts": prices.get_products}, prices.REGIONS),
}
"""By what requests are signed for. Every other action answers `UnsupportedOperation`; calls of other services are refused, too."""
