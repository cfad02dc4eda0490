"""What a region's machines need, and plan and apply keep up: a security group and a launch template."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from falplan.core.errors import FalplanError
from falplan.core.values import JsonObject
from falplan.sdk.resources import Declared, Failed, Found, Mark, ResourceKind, Say

from . import groups, templates
from .account import Account, Refused
from .concrete import as_launch_template, as_security_group
from .groups import Group
from .tags import ADDRESS, OWNER, tags_of
from .templates import Template

INTERFACES = 300.0
"""Seconds for which a group may be held by network interfaces of machines that have ended."""
STILL_THERE = "DependencyViolation"
GONE = groups.GONE | templates.GONE


@dataclass(frozen=True)
class Support:
    """The resources of one region. `home` are the options that lead back to it; `pause` waits so many seconds."""

    region: str
    account: Account
    group: Group
    template: Template
    home: JsonObject
    pause: Callable[[float], None] = time.sleep

    def declared(self) -> Sequence[Declared]:
        """The group, and the template that names it."""
        group = Declared(
            ResourceKind.SECURITY_GROUP,
            "",
            self.group.inputs,
            self.home,
            immutable=frozenset({"vpc"}),
            create_first=True,
            known_after=("id", "group", "network"),
            because={"vpc": "a security group stays in its network"},
            defaults=frozenset({"egress", "tags"}),
            concrete=as_security_group(self.region, self.group),
        )
        template = Declared(
            ResourceKind.LAUNCH_TEMPLATE,
            "",
            self.template.inputs,
            self.home,
            depends_on=((ResourceKind.SECURITY_GROUP, ""),),
            known_after=("id", "template", "version")
            if self.template.image
            else ("id", "image", "template", "version"),
            because={"image": "new machines start from it; those that run stay as they are"},
            defaults=frozenset({"encrypted", "metadata", "tags"}),
            concrete=as_launch_template(self.region, self.template),
        )
        return [group, template]

    def resolved(self, known: Mapping[str, Found], *, ask: bool) -> Support:
        """With the image that `source` stands for: the known one, as long as it was looked up by the same name."""
        source = self.template.source
        if source.startswith("ami-"):
            return replace(self, template=replace(self.template, image=source))
        before = known.get(f"{ResourceKind.LAUNCH_TEMPLATE}.{self.region}")
        if before is not None and before.inputs.get("image_source") == source and before.inputs.get("image"):
            return replace(self, template=replace(self.template, image=str(before.inputs["image"])))
        return self if not ask else replace(self, template=replace(self.template, image=self._looked_up(source)))

    def _looked_up(self, source: str) -> str:
        try:
            return self.account.parameter(source)
        except Refused as exc:
            if exc.code != "ParameterNotFound":
                raise
            there = f"{self.account.access.region} has no parameter {source}."
            detail = f"{there} Say `image:` in regions.{self.region}, an ami-… or another path."
            raise FalplanError("There is no such image", detail) from exc

    def look(self, owner: str, known: Mapping[str, Found]) -> Sequence[Found]:
        """Two listings, and one call for each template. What carries another owner's mark is never shown."""
        return [found for whose, found in self._there(owner, known) if whose in ("", owner)]

    def _there(self, owner: str, known: Mapping[str, Found]) -> list[tuple[str, Found]]:
        """What carries the owner's mark, and what is known, each with whose mark it carries."""
        ids = [f.identity for f in known.values()]
        seen = groups.look(self.account, owner, self.region, [i for i in ids if i.startswith("sg-")])
        found = [(_owner(g), groups.found_of(g, self._default_vpc)) for g in seen]
        names, vpc = self._groups(seen)
        for told, version in templates.look(self.account, owner, self.region, [i for i in ids if i.startswith("lt-")]):
            found.append((_owner(told), templates.found_of(told, version, names, self._default_vpc, vpc)))
        return found

    def _groups(self, seen: Sequence[Mapping[str, Any]]) -> tuple[list[str], str]:
        """The groups that machines of the region may be in, and the network that they are in."""
        vpc = self.group.vpc or self._default_vpc
        address = f"{ResourceKind.SECURITY_GROUP}.{self.region}"
        mine = [g for g in seen if tags_of(g.get("Tags")).get(ADDRESS) == address]
        there = [str(g["GroupId"]) for g in mine if g["VpcId"] == vpc]
        return there, vpc if there or not mine else str(mine[0]["VpcId"])

    @cached_property
    def _default_vpc(self) -> str:
        return groups.default_vpc(self.account)

    def create(self, wanted: Declared, mark: Mark, *, besides: str, say: Say) -> Found:
        """See `Resources.create`."""
        mine = [f for f in self.look(mark.owner, {}) if f.address == mark.address and f.identity != besides]
        if mine:
            return self.update(wanted, mark, mine[0].identity, say=say)
        if wanted.kind is ResourceKind.SECURITY_GROUP:
            asked = Group.read(wanted.inputs)
            identity = groups.create(self.account, asked, mark, self.region, besides=besides)
        else:
            template, group = self._template(wanted), self._group_of(mark)
            identity = templates.create(self.account, template, group, mark, self.region, besides=besides)
        say(identity)
        return self.update(wanted, mark, identity, say=say)

    def update(self, wanted: Declared, mark: Mark, identity: str, *, say: Say) -> Found:
        """See `Resources.update`."""
        self._check_mine(mark, identity)
        try:
            if wanted.kind is ResourceKind.SECURITY_GROUP:
                groups.bring(self.account, identity, Group.read(wanted.inputs), mark, self.region)
            else:
                template, group = self._template(wanted), self._group_of(mark)
                templates.bring(self.account, identity, template, group, mark, self.region)
        except Refused as exc:
            if exc.code in GONE:
                raise Failed("It is not there any more", f"{identity} in {self.account.access.region}.") from exc
            raise
        return self._seen(identity, mark)

    def _check_mine(self, mark: Mark, identity: str) -> None:
        """Raises: Failed: it is another owner's, or not there."""
        for whose, found in self._there(mark.owner, {mark.address: Found(mark.address, identity, {})}):
            if found.identity == identity:
                if whose not in ("", mark.owner):
                    raise Failed(
                        "It belongs to another project", f"{identity} in {self.account.access.region}: {whose}."
                    )
                return
        raise Failed("It is not there any more", f"{identity} in {self.account.access.region}.")

    def _seen(self, identity: str, mark: Mark) -> Found:
        known = Found(mark.address, identity, {})
        for found in self.look(mark.owner, {mark.address: known}):
            if found.identity == identity:
                return found
        raise FalplanError("EC2 does not show it yet", f"{identity} was made a moment ago. Apply again.")

    def _template(self, wanted: Declared) -> Template:
        asked = Template.read(wanted.inputs)
        return asked if asked.image else replace(asked, image=self._looked_up(asked.source))

    def _group_of(self, mark: Mark) -> str:
        """The region's group, in the network that is wanted now."""
        seen = groups.look(self.account, mark.owner, self.region, ())
        there, vpc = self._groups([g for g in seen if _owner(g) == mark.owner])
        if there and vpc == (self.group.vpc or self._default_vpc):
            return there[0]
        address = f"{ResourceKind.SECURITY_GROUP}.{self.region}"
        raise FalplanError("The security group is not there", f"{address} is made first. Apply again.")

    def delete(self, mark: Mark, identity: str, *, say: Say) -> None:
        """See `Resources.delete`. A group is held for a while by the interfaces of machines that have ended."""
        for found in self._meant(mark, identity):
            if found.identity.startswith("sg-"):
                self._delete_group(found.identity, say)
            else:
                asked = {"LaunchTemplateId": found.identity}
                self._gone(partial(self.account.ec2, "delete_launch_template", **asked))

    def _delete_group(self, identity: str, say: Say) -> None:
        waited, wait = 0.0, 2.0
        while True:
            try:
                self._gone(lambda: self.account.ec2("delete_security_group", GroupId=identity))
                return
            except Refused as exc:
                if exc.code != STILL_THERE:
                    raise
                if waited >= INTERFACES:
                    detail = f"{identity} is still used: {exc.detail}. Apply again once what uses it is gone."
                    raise FalplanError("The security group is still used", detail) from exc
            if not waited:
                say(f"{identity} is still used by machines that end")
            self.pause(wait)
            waited, wait = waited + wait, min(20.0, wait * 1.5)

    @staticmethod
    def _gone(call: Callable[[], object]) -> None:
        try:
            call()
        except Refused as exc:
            if exc.code not in GONE:
                raise

    def remains(self, mark: Mark, identity: str) -> bool:
        """See `Resources.remains`."""
        return bool(self._meant(mark, identity))

    def _meant(self, mark: Mark, identity: str) -> list[Found]:
        """What an identity, or else an address, means.

        Raises:
            Failed: it is another owner's.
        """
        if not identity:
            return [f for f in self.look(mark.owner, {}) if f.address == mark.address]
        known = {mark.address: Found(mark.address, identity, {})}
        for whose, found in self._there(mark.owner, known):
            if found.identity == identity and whose not in ("", mark.owner):
                raise Failed("It belongs to another project", f"{identity} in {self.account.access.region}: {whose}.")
            if found.identity == identity:
                return [found]
        return []

    def read(self, wanted: Declared, *, say: Say) -> Found:
        """Never: falplan's own are all that it declares."""
        raise Failed("It is not managed", f"{wanted.kind.value} of region {self.region}.")


def _owner(told: Mapping[str, Any]) -> str:
    return tags_of(told.get("Tags")).get(OWNER, "")
