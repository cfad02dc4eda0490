"""A region of AWS: resources of plan and apply, and a seller of machines. Its own machines are none: they are bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from falplan.core.errors import FalplanError
from falplan.core.plural import count
from falplan.core.values import Json, JsonObject
from falplan.sdk.launches import Clock, Elastic
from falplan.sdk.resources import Declared, Found, Mark, Resources, Say
from falplan.sdk.shell import Shell
from falplan.sdk.values import Machine

from .account import Account
from .groups import Group
from .kinds import known
from .listing import fetch, merged
from .options import Options, options_of
from .policy import applying, control_plane
from .prices import current, keep
from .requests import Build
from .selling import Seller
from .support import Support
from .templates import Template, build_of

WAY = ("region", "profile", "role", "external_id", "endpoints")
"""Options that suffice to reach what a region has at AWS."""


def provider(region_name: str, options: Mapping[str, Json]) -> AwsRegion:
    """The region `region_name` of a spec, as its options have it.

    Raises:
        FalplanError: an option is unknown or has no meaning.
    """
    read = options_of(region_name, options)
    return AwsRegion(region_name, read, dict(options), Account(read.access))


@dataclass(frozen=True)
class AwsRegion:
    """One region of a spec. `written` are its options as the spec has them; `image` is what was looked up, empty before."""

    region: str
    options: Options
    written: JsonObject
    account: Account
    image: str = ""

    @property
    def name(self) -> str:
        return "aws"

    def policies(self) -> Mapping[str, JsonObject]:
        """See `falplan.sdk.accounts.CloudAccount`."""
        return {"control-plane": control_plane(), "apply": applying()}

    def fetch_prices(self, day: str) -> str:
        """See `falplan.sdk.accounts.CloudAccount`."""
        place = self.options.access.region
        found = fetch(self.account, place, known())
        path = keep(merged(current(), place, found, collected=day))
        return f"{place}: {count(len(found), 'price')} of {day}, kept in {path}"

    def machines(self) -> list[Machine]:
        """None: who buys them knows them."""
        return []

    def shell(self, machine: Machine) -> Shell:
        """Never: the way onto a bought machine is told by who sells it."""
        raise FalplanError("No such machine", f"{machine.id}: region {self.region} names no machines.")

    def seller(self, clock: Clock) -> Elastic:
        """See `falplan.sdk.launches.Selling`."""
        options = self.options

        def build(owner: str) -> Build:
            return build_of(self.account, owner, self.region)

        prices, after = current(), options.orphan_after
        more = prices.more(options.access.region, options.disk, public=options.wishes.public)
        return Seller(self.region, self.account, options.terms, options.wishes, build, prices, clock, after, more)

    @cached_property
    def support(self) -> Support:
        """What its machines need."""
        options, tags = self.options, dict(self.options.tags)
        vpc = options.wishes.vpc
        template = Template(
            self.image, options.image, options.disk, options.wishes.public, options.instance_profile, vpc, tags
        )
        home = {name: self.written[name] for name in WAY if name in self.written}
        return Support(self.region, self.account, Group(vpc, options.ssh_from, tags), template, home)

    def resolved(self, known: Mapping[str, Found], *, ask: bool) -> Resources:
        """See `falplan.sdk.resources.Resolving`."""
        return replace(self, image=self.support.resolved(known, ask=ask).template.image)

    def declared(self) -> Sequence[Declared]:
        """See `Resources.declared`."""
        return self.support.declared()

    def look(self, owner: str, known: Mapping[str, Found]) -> Sequence[Found]:
        """See `Resources.look`."""
        return self.support.look(owner, known)

    def create(self, wanted: Declared, mark: Mark, *, besides: str, say: Say) -> Found:
        """See `Resources.create`."""
        return self.support.create(wanted, mark, besides=besides, say=say)

    def update(self, wanted: Declared, mark: Mark, identity: str, *, say: Say) -> Found:
        """See `Resources.update`."""
        return self.support.update(wanted, mark, identity, say=say)

    def delete(self, mark: Mark, identity: str, *, say: Say) -> None:
        """See `Resources.delete`."""
        self.support.delete(mark, identity, say=say)

    def remains(self, mark: Mark, identity: str) -> bool:
        """See `Resources.remains`."""
        return self.support.remains(mark, identity)

    def read(self, wanted: Declared, *, say: Say) -> Found:
        """See `Resources.read`."""
        return self.support.read(wanted, say=say)
