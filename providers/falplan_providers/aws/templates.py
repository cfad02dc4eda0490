"""The launch template of a region: what all of its machines have in common, as plan and apply keep it up and purchases read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject, digest
from falplan.sdk.resources import Failed, Found, Mark, Standing

from .account import Account, Refused
from .groups import marks, name_of, own_tags
from .requests import Build, Disk, Image, metadata, root_volume
from .tags import ADDRESS, OPERATION, OWNER, REGION, filters, specifications, tag_list, tags_of

SOURCE = "falplan:image-source"
"""What the image was looked up by: the path of a parameter, or the image itself."""
GONE = frozenset({"InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateName.NotFoundException"})
HOPS = 1
"""So far a machine's metadata service is reached: no container gets to the machine's credentials."""


@dataclass(frozen=True, slots=True)
class Template:
    """What is wanted of it. `image` is an id, empty as long as nobody has looked up what `source` stands for; `profile` is the name of an
    instance profile, empty for none."""

    image: str
    source: str
    disk: Disk
    public: bool
    profile: str
    vpc: str
    tags: Mapping[str, str]

    @classmethod
    def read(cls, inputs: Mapping[str, Json]) -> Template:
        """The inverse of `inputs`."""
        disk, tags = cast("Mapping[str, int]", inputs["disk"]), cast("JsonObject", inputs["tags"])
        return cls(
            str(inputs.get("image") or ""),
            str(inputs["image_source"]),
            Disk(disk["size"], disk["iops"], disk["throughput"]),
            inputs["public"] is True,
            str(inputs["instance_profile"]),
            str(inputs["vpc"]),
            {k: str(v) for k, v in tags.items()},
        )

    @property
    def inputs(self) -> JsonObject:
        """As a plan shows it."""
        inputs: JsonObject = {
            "image_source": self.source,
            "disk": {"size": self.disk.size, "iops": self.disk.iops, "throughput": self.disk.throughput},
            "metadata": {"tokens": "required", "hops": HOPS},
            "encrypted": True,
            "public": self.public,
            "instance_profile": self.profile,
            "vpc": self.vpc,
            "tags": dict(self.tags),
        }
        return {"image": self.image, **inputs} if self.image else inputs


def image_of(account: Account, identity: str) -> Image:
    """An image, with what a volume of it needs.

    Raises:
        Failed: there is none, or no machine that falplan buys can boot it.
    """
    where = account.access.region
    try:
        told = account.ec2("describe_images", ImageIds=[identity])["Images"]
    except Refused as exc:
        if not exc.code.startswith("InvalidAMIID"):
            raise
        told = []
    if not told:
        raise Failed("There is no such image", f"{identity} in {where}: say another `image:`.")
    [image] = told
    if image.get("Architecture") != "x86_64":
        detail = f"{identity} is for {image.get('Architecture')}, and machines that falplan buys are x86_64: say another `image:`."
        raise Failed("The image is for other machines", detail)
    root = str(image["RootDeviceName"])
    sizes = [m["Ebs"].get("VolumeSize", 0) for m in image.get("BlockDeviceMappings", ()) if m.get("DeviceName") == root]
    return Image(identity, root, int(max(sizes, default=8)))


def data(wanted: Template, image: Image, group: str, mark: Mark, region: str) -> JsonObject:
    """What a version of the template says.

    Raises:
        Failed: the disk does not hold the image.
    """
    if wanted.disk.size < image.size:
        detail = f"{image.id} needs {image.size} GiB, and `disk.size` is {wanted.disk.size} GiB."
        raise Failed("The disk is smaller than the image", detail)
    tags = marks(mark, region, wanted.tags)
    kinds = ("instance", "volume", "network-interface")
    asked: dict[str, Any] = {
        "ImageId": image.id,
        "BlockDeviceMappings": [root_volume(image, wanted.disk)],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "Groups": [group],
                "AssociatePublicIpAddress": wanted.public,
                "DeleteOnTermination": True,
            }
        ],
        "MetadataOptions": metadata(HOPS),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "EbsOptimized": True,
        "TagSpecifications": specifications(tags, kinds),
        **({"IamInstanceProfile": {"Name": wanted.profile}} if wanted.profile else {}),
    }
    return cast("JsonObject", asked)


def look(account: Account, owner: str, region: str, known: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Templates with the mark, and those that are known by their ids, each with the version that counts."""
    wanted = filters({f"tag:{OWNER}": owner, f"tag:{REGION}": region})
    found = {
        t["LaunchTemplateId"]: t for t in account.pages("describe_launch_templates", "LaunchTemplates", Filters=wanted)
    }
    for identity in known:
        if identity not in found:
            try:
                told = account.ec2("describe_launch_templates", LaunchTemplateIds=[identity])["LaunchTemplates"]
            except Refused as exc:
                if exc.code not in GONE:
                    raise
                continue
            found |= {t["LaunchTemplateId"]: t for t in told}
    for identity in sorted(found):
        yield found[identity], version_of(account, identity)


def version_of(account: Account, identity: str) -> Any:
    """The version of a template that counts, with its number."""
    told = account.ec2("describe_launch_template_versions", LaunchTemplateId=identity, Versions=["$Default"])
    return told["LaunchTemplateVersions"][0]


def found_of(told: Mapping[str, Any], version: Any, groups: Sequence[str], default_vpc: str, vpc: str) -> Found:
    """A template as a plan compares it. `groups` are the ids of the region's groups, `vpc` where they are."""
    tags, body = tags_of(told.get("Tags")), version["LaunchTemplateData"]
    ebs, card = _first(body, "BlockDeviceMappings").get("Ebs") or {}, _first(body, "NetworkInterfaces")
    metadata = body.get("MetadataOptions") or {}
    inputs: JsonObject = {
        "image": str(body.get("ImageId", "")),
        "image_source": tags.get(SOURCE, ""),
        "disk": {name: int(ebs.get(key) or 0) for name, key in _DISK.items()},
        "metadata": {
            "tokens": str(metadata.get("HttpTokens", "optional")),
            "hops": int(metadata.get("HttpPutResponseHopLimit") or 0),
        },
        "encrypted": ebs.get("Encrypted") is True,
        "public": card.get("AssociatePublicIpAddress") is True,
        "instance_profile": str((body.get("IamInstanceProfile") or {}).get("Name", "")),
        "vpc": "" if vpc == default_vpc else vpc,
        "tags": own_tags(tags),
    }
    outputs: JsonObject = {"template": str(told["LaunchTemplateId"]), "version": int(version["VersionNumber"])}
    found = Found(
        tags.get(ADDRESS, ""),
        str(told["LaunchTemplateId"]),
        inputs,
        outputs,
        digest([inputs, version["VersionNumber"]]),
        tags.get(OPERATION, ""),
    )
    foreign = sorted(set(card.get("Groups") or ()) - set(groups))
    if foreign or not card.get("Groups"):
        because = f"its machines would be in {', '.join(foreign) or 'no group of falplan'}"
        return Found(
            found.address, found.identity, inputs, outputs, found.version, found.operation, Standing.ALTERED, because
        )
    return found


_DISK = {"size": "VolumeSize", "iops": "Iops", "throughput": "Throughput"}


def _first(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    rows = body.get(name) or [{}]
    return cast("Mapping[str, Any]", rows[0])


def create(account: Account, wanted: Template, group: str, mark: Mark, region: str, *, besides: str) -> str:
    """Make a template; or find the one of this name, which is ours."""
    image, name = image_of(account, wanted.image), name_of(mark, besides)
    tags = {**marks(mark, region, wanted.tags), SOURCE: wanted.source}
    try:
        made = account.ec2(
            "create_launch_template",
            LaunchTemplateName=name,
            ClientToken=_token(mark, f"template besides {besides}"),
            LaunchTemplateData=data(wanted, image, group, mark, region),
            TagSpecifications=specifications(tags, ("launch-template",)),
        )
        return str(made["LaunchTemplate"]["LaunchTemplateId"])
    except Refused as exc:
        if exc.code not in ("InvalidLaunchTemplateName.AlreadyExistsException", "IdempotentParameterMismatch"):
            raise
    for told in account.ec2("describe_launch_templates", LaunchTemplateNames=[name])["LaunchTemplates"]:
        if tags_of(told.get("Tags")).get(OWNER) == mark.owner:
            return str(told["LaunchTemplateId"])
    raise Failed("A launch template of this name is somebody else's", f"{name}: rename or remove it.")


def bring(account: Account, identity: str, wanted: Template, group: str, mark: Mark, region: str) -> None:
    """Make a version that says what is wanted, unless the one that counts does, and have that one count."""
    asked = data(wanted, image_of(account, wanted.image), group, mark, region)
    [told] = account.ec2("describe_launch_templates", LaunchTemplateIds=[identity])["LaunchTemplates"]
    tags, own = tags_of(told.get("Tags")), {**marks(mark, region, wanted.tags), SOURCE: wanted.source}
    if any(tags.get(name) != value for name, value in own.items()):
        account.ec2("create_tags", Resources=[identity], Tags=tag_list(own))
    surplus = [{"Key": name} for name in sorted(tags) if name not in own and not name.startswith("aws:")]
    if surplus:
        account.ec2("delete_tags", Resources=[identity], Tags=surplus)
    if _says(version_of(account, identity)["LaunchTemplateData"], asked):
        return
    made = account.ec2(
        "create_launch_template_version",
        LaunchTemplateId=identity,
        ClientToken=_token(mark, repr(asked)),
        LaunchTemplateData=asked,
    )
    number = str(made["LaunchTemplateVersion"]["VersionNumber"])
    account.ec2("modify_launch_template", LaunchTemplateId=identity, DefaultVersion=number)


def _says(there: Any, asked: Any) -> bool:
    """Whether a version says all that is asked for; it may say more, as defaults are filled in."""
    if isinstance(asked, dict):
        return isinstance(there, dict) and all(name in there and _says(there[name], asked[name]) for name in asked)
    if isinstance(asked, list):
        same = isinstance(there, list) and len(there) == len(asked)
        return same and all(_says(one, two) for one, two in zip(there, asked, strict=True))
    return bool(there == asked)


def _token(mark: Mark, what: str) -> str:
    said = f"{mark.owner}|{mark.address}|{mark.operation}|{what}"
    return hashlib.sha256(said.encode()).hexdigest()[:60]


def build_of(account: Account, owner: str, region: str) -> Build:
    """What machines of a region are made of, as its template says now.

    Raises:
        FalplanError: there is none: it was removed, or never made.
    """
    for told, version in look(account, owner, region, ()):
        if tags_of(told.get("Tags")).get(ADDRESS) == f"launch_template.{region}":
            return _build(account, version["LaunchTemplateData"], own_tags(tags_of(told.get("Tags"))))
    detail = f"{account.access.region} has no launch template of this project for {region}: `falplan apply` makes it."
    raise FalplanError("There is nothing to launch machines from", detail)


def _build(account: Account, body: Mapping[str, Any], tags: JsonObject) -> Build:
    volume, card = _first(body, "BlockDeviceMappings"), _first(body, "NetworkInterfaces")
    ebs = volume.get("Ebs") or {}
    disk = Disk(int(ebs["VolumeSize"]), int(ebs["Iops"]), int(ebs["Throughput"]))
    return Build(
        Image(str(body["ImageId"]), str(volume["DeviceName"]), disk.size),
        tuple(str(g) for g in card.get("Groups") or ()),
        disk,
        str((body.get("IamInstanceProfile") or {}).get("Name", "")),
        public=card.get("AssociatePublicIpAddress") is True,
        hops=int((body.get("MetadataOptions") or {}).get("HttpPutResponseHopLimit") or HOPS),
        tags={k: str(v) for k, v in tags.items()},
    )
