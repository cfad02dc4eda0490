"""Launch templates and key pairs."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import matching, page, tag_list, tags_of
from falplan.sdk.testing.fakeec2.things import Thing
from falplan.sdk.testing.fakeec2.wire import Ec2Error

Values = Mapping[str, Callable[[Thing], list[str]]]
NO_TEMPLATE = "InvalidLaunchTemplateId.NotFound"


def with_template(account: Account, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a launch asks for, with what its template says beside it. Tags of both count."""
    if "LaunchTemplate" not in asked:
        return dict(asked)
    told = asked["LaunchTemplate"]
    template = _template(account, told)
    data = _version(template, str(told.get("Version", "$Default")))["LaunchTemplateData"]
    tags = [*data.get("TagSpecifications", ()), *asked.get("TagSpecifications", ())]
    merged = {**data, **{k: v for k, v in asked.items() if k != "LaunchTemplate"}}
    return {**merged, "TagSpecifications": tags} if tags else merged


def _template(account: Account, told: Mapping[str, Any]) -> Thing:
    if "LaunchTemplateId" in told:
        return account.find("lt", told["LaunchTemplateId"], NO_TEMPLATE)
    for one in account.seen("lt"):
        if one.body["LaunchTemplateName"] == told.get("LaunchTemplateName"):
            return one
    words = "The specified launch template, with template name, does not exist."
    raise Ec2Error("InvalidLaunchTemplateName.NotFoundException", words)


def _version(template: Thing, wanted: str) -> dict[str, Any]:
    versions: list[dict[str, Any]] = template.body["versions"]
    if wanted in ("$Default", "$Latest"):
        return versions[-1 if wanted == "$Latest" else template.body["default"] - 1]
    for one in versions:
        if str(one["VersionNumber"]) == wanted:
            return one
    raise Ec2Error("InvalidLaunchTemplateId.VersionNotFound", f"Could not find launch template version {wanted}")


def create_launch_template(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateLaunchTemplate. Names are unique."""
    name, token = p["LaunchTemplateName"], p.get("ClientToken", "")
    key = "CreateLaunchTemplate", token, ""
    if token and key in account.tokens:
        return {"LaunchTemplate": _told(account.things[account.tokens[key][2][0]])}
    if any(t.body["LaunchTemplateName"] == name for t in account.things.values() if t.id.startswith("lt-")):
        raise Ec2Error("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
    made = Thing(account.new_id("lt"), account.now, tags_of(p, "launch-template"))
    first = {"VersionNumber": 1, "CreateTime": account.now, "LaunchTemplateData": p["LaunchTemplateData"]}
    made.body = {"LaunchTemplateName": name, "default": 1, "versions": [first]}
    account.things[made.id] = made
    if token:
        account.tokens[key] = account.now, "", [made.id]
    return {"LaunchTemplate": _told(made)}


def create_launch_template_version(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateLaunchTemplateVersion, without a source version."""
    if "SourceVersion" in p:
        raise Ec2Error("UnsupportedOperation", "This fake takes whole versions")
    template = _template(account, p)
    number = len(template.body["versions"]) + 1
    made = {"VersionNumber": number, "CreateTime": account.now, "LaunchTemplateData": p["LaunchTemplateData"]}
    template.body["versions"].append(made)
    return {"LaunchTemplateVersion": _told_version(template, made)}


def modify_launch_template(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ModifyLaunchTemplate: which version is the default one."""
    template = _template(account, p)
    template.body["default"] = int(_version(template, p["DefaultVersion"])["VersionNumber"])
    return {"LaunchTemplate": _told(template)}


def describe_launch_templates(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeLaunchTemplates."""
    ids, names = p.get("LaunchTemplateIds") or [], p.get("LaunchTemplateNames") or []
    for wanted in ids:
        account.find("lt", wanted, NO_TEMPLATE)
    for wanted in names:
        _template(account, {"LaunchTemplateName": wanted})
    found = [t for t in account.seen("lt") if not ids or t.id in ids]
    found = [t for t in found if not names or t.body["LaunchTemplateName"] in names]
    values: Values = {"launch-template-name": lambda t: [t.body["LaunchTemplateName"]]}
    shown, token = page(matching(found, p.get("Filters") or (), lambda t: t.tags, values), p, least=1)
    return {"LaunchTemplates": [_told(t) for t in shown], "NextToken": token}


def describe_launch_template_versions(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeLaunchTemplateVersions, of one template."""
    template = _template(account, p)
    wanted = p.get("Versions") or [str(v["VersionNumber"]) for v in template.body["versions"]]
    shown, token = page([_told_version(template, _version(template, str(v))) for v in wanted], p, least=1)
    return {"LaunchTemplateVersions": list(shown), "NextToken": token}


def delete_launch_template(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteLaunchTemplate."""
    template = _template(account, p)
    del account.things[template.id]
    return {"LaunchTemplate": _told(template)}


def _told(template: Thing) -> dict[str, Any]:
    return {
        "LaunchTemplateId": template.id,
        "LaunchTemplateName": template.body["LaunchTemplateName"],
        "CreateTime": template.made_at,
        "DefaultVersionNumber": template.body["default"],
        "LatestVersionNumber": len(template.body["versions"]),
        "Tags": tag_list(template.tags),
    }


def _told_version(template: Thing, version: Mapping[str, Any]) -> dict[str, Any]:
    name = {"LaunchTemplateId": template.id, "LaunchTemplateName": template.body["LaunchTemplateName"]}
    return {**name, **version, "DefaultVersion": version["VersionNumber"] == template.body["default"]}


# -- key pairs ------------------------------------------------------------------------------------------------------------


def import_key_pair(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ImportKeyPair: RSA and ed25519."""
    name, text = p["KeyName"], p["PublicKeyMaterial"].decode(errors="replace")
    if any(t.body["KeyName"] == name for t in account.things.values() if t.id.startswith("key-")):
        raise Ec2Error("InvalidKeyPair.Duplicate", f"The keypair already exists: {name}")
    kind, _, rest = text.strip().partition(" ")
    try:
        blob = base64.b64decode(rest.split(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if kind not in ("ssh-ed25519", "ssh-rsa") or not blob:
        raise Ec2Error("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
    seal = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    made = Thing(account.new_id("key"), account.now, tags_of(p, "key-pair"))
    made.body = {"KeyName": name, "KeyFingerprint": seal, "KeyType": kind.removeprefix("ssh-"), "PublicKey": text}
    account.things[made.id] = made
    told = {n: made.body[n] for n in ("KeyName", "KeyFingerprint")}
    return {**told, "KeyPairId": made.id, "Tags": tag_list(made.tags)}


def describe_key_pairs(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeKeyPairs."""
    names, ids = p.get("KeyNames") or [], p.get("KeyPairIds") or []
    found = [t for t in account.seen("key") if not (names or ids) or t.body["KeyName"] in names or t.id in ids]
    missing = {*names, *ids} - {t.body["KeyName"] for t in found} - {t.id for t in found}
    if missing:
        raise Ec2Error("InvalidKeyPair.NotFound", f"The key pair '{min(missing)}' does not exist")
    values: Values = {"key-name": lambda t: [t.body["KeyName"]], "fingerprint": lambda t: [t.body["KeyFingerprint"]]}
    kept = matching(found, p.get("Filters") or (), lambda t: t.tags, values)
    hidden = () if p.get("IncludePublicKey") else ("PublicKey",)
    told = [{k: v for k, v in t.body.items() if k not in hidden} for t in kept]
    ids_of = [{"KeyPairId": t.id, "CreateTime": t.made_at, "Tags": tag_list(t.tags)} for t in kept]
    return {"KeyPairs": [{**one, **more} for one, more in zip(told, ids_of, strict=True)]}


def delete_key_pair(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteKeyPair: none of that name is no error."""
    wanted = p.get("KeyName"), p.get("KeyPairId")
    for thing in list(account.things.values()):
        if thing.id.startswith("key-") and (thing.body["KeyName"] == wanted[0] or thing.id == wanted[1]):
            del account.things[thing.id]
    return {}
