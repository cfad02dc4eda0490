"""A region's resources as Terraform's provider for AWS has them, for tools that judge its plans. Asks nobody.

https://registry.terraform.io/providers/hashicorp/aws/latest/docs
"""

from __future__ import annotations

from typing import Any, cast

from falplan.core.provided import Concrete
from falplan.core.values import Json, JsonObject

from .groups import DESCRIPTION, EVERYWHERE, Group, permission
from .requests import Image, metadata, root_volume
from .tags import REGION
from .templates import HOPS, Template

ROOT = "/dev/sda1"
"""Where the root volume of an image is attached that nobody has looked at yet."""


def as_security_group(region: str, group: Group) -> Concrete:
    """`aws_security_group`, with its rules in it."""
    inbound = [f"tcp 22 from {network}" for network in sorted(group.ssh_from)]
    values: JsonObject = {
        "name": f"falplan-{region}",
        "description": DESCRIPTION,
        "vpc_id": group.vpc or None,
        "ingress": [_rule(rule, "SSH from the control plane") for rule in inbound],
        "egress": [_rule(rule, "packages, images and models, wherever they are") for rule in EVERYWHERE],
        "tags": {**group.tags, REGION: region},
    }
    return Concrete("aws_security_group", values)


def _rule(rule: str, description: str) -> Json:
    found: dict[str, Any] = permission(rule)
    return {
        "protocol": found["IpProtocol"],
        "from_port": found.get("FromPort", 0),
        "to_port": found.get("ToPort", 0),
        "cidr_blocks": [r["CidrIp"] for r in found.get("IpRanges", ())],
        "ipv6_cidr_blocks": [r["CidrIpv6"] for r in found.get("Ipv6Ranges", ())],
        "prefix_list_ids": [r["PrefixListId"] for r in found.get("PrefixListIds", ())],
        "security_groups": [r["GroupId"] for r in found.get("UserIdGroupPairs", ())],
        "self": False,
        "description": description,
    }


def as_launch_template(region: str, template: Template) -> Concrete:
    """`aws_launch_template`: all that machines are made of, from the same parts as the request for one."""
    asked, volume = metadata(HOPS), root_volume(Image(template.image, ROOT, 0), template.disk)
    ebs = cast("JsonObject", volume["Ebs"])
    values: JsonObject = {
        "name": f"falplan-{region}",
        "image_id": template.image or None,
        "ebs_optimized": "true",
        "instance_initiated_shutdown_behavior": "terminate",
        "metadata_options": [
            {
                "http_endpoint": asked["HttpEndpoint"],
                "http_tokens": asked["HttpTokens"],
                "http_put_response_hop_limit": asked["HttpPutResponseHopLimit"],
                "instance_metadata_tags": asked["InstanceMetadataTags"],
            }
        ],
        "block_device_mappings": [
            {
                "device_name": volume["DeviceName"],
                "ebs": [
                    {
                        "encrypted": str(ebs["Encrypted"]).lower(),
                        "volume_type": ebs["VolumeType"],
                        "volume_size": ebs["VolumeSize"],
                        "iops": ebs["Iops"],
                        "throughput": ebs["Throughput"],
                        "delete_on_termination": str(ebs["DeleteOnTermination"]).lower(),
                    }
                ],
            }
        ],
        "network_interfaces": [
            {"associate_public_ip_address": str(template.public).lower(), "delete_on_termination": "true"}
        ],
        "iam_instance_profile": [{"name": template.profile}] if template.profile else [],
        "tags": {**template.tags, REGION: region},
    }
    return Concrete("aws_launch_template", values)
