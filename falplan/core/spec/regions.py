"""The regions of a spec as they are written: this machine, or hosts that are reached by SSH. Knows nothing of what is there."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from falplan.core.spec.codes import Code
from falplan.core.spec.model import Model, one_of
from falplan.core.spec.types import Bool, Count, Money, Name, Port, Size, Text, TypeName, Vcpu, fault, one_or_many, text


def any_region(value: Any) -> Any:
    """A region's shape; what stands beside `provider` is the provider's own."""
    if not isinstance(value, dict):
        text(value)
        raise fault(Code.SHAPE, "expected a mapping such as {provider: local}")
    if "provider" not in value:
        raise fault(Code.MISSING, "the key `provider` is missing under regions.<name>", "add `provider: local`")
    return value


class Slots(Model):
    """How much of a machine is meant."""

    vcpu: Vcpu | None = None
    """Virtual CPUs; fractions are allowed."""
    ram: Size | None = None
    """Main memory in bytes, or text such as 512MB (10^6) or 1GiB (2^30)."""
    gpus: Count | None = None
    """Number of GPUs, those with the highest indices."""


class Capacity(Model):
    """What the machine has, in place of what was detected. GPUs are always detected: runners are given real ones."""

    vcpu: Vcpu | None = None
    """Virtual CPUs; fractions are allowed."""
    ram: Size | None = None
    """Main memory in bytes, or text such as 512MB (10^6) or 1GiB (2^30)."""


class RegionMoney(Model):
    """What every region may say of money, whoever gives its machines."""

    price_per_hour: dict[TypeName, Money] = Field(
        default={},
        description="USD an hour of one runner of each machine type here, in place of the machine type's own `price_per_hour`.",
        examples=[{"GPU-A100": 2.5}],
    )
    budget_per_hour: Money | None = None
    """Most that runners here may cost, in USD an hour: apply is refused and no runner is launched beyond it."""


class LocalRegion(RegionMoney):
    """A region that is this machine."""

    provider: Annotated[str, *one_of("local")]
    """Who gives the machines: `local`, `ssh` or `aws`."""
    reserve: Slots | None = None
    """How much is kept back from runners."""
    capacity: Capacity | None = None
    """How much there is, in place of what is detected."""
    strict: Bool = False
    """Refuse a machine that is smaller than the machine type, in place of sharing it out."""


def _host_address(value: Any) -> str:
    word = text(value)
    with_port = re.fullmatch(r"([^:]+):(\d+)", word)  # an IPv6 address has more colons
    if with_port:
        raise fault(Code.RANGE, "an address and a port", f"write `address: {with_port[1]}` and `port: {with_port[2]}`")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:%-]{0,254}", word) and ".." not in word:
        return word
    raise fault(Code.RANGE, "not a host name or IP address", "such as 10.0.0.11, 2001:db8::1 or gpu-01.lab.example.com")


def _user(value: Any) -> str:
    word = text(value)
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", word):
        return word
    raise fault(Code.RANGE, "not the name of a user")


def _jump(value: Any) -> str:
    word = text(value)
    one = r"(ssh://)?([A-Za-z0-9_.-]+@)?(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9][A-Za-z0-9_.-]*)(:\d{1,5})?"
    if re.fullmatch(rf"{one}(\s*,\s*{one})*", word):
        return word
    raise fault(
        Code.RANGE, "not a host to jump through", "such as ops@bastion.example.com:22, several with commas between them"
    )


_KEY = r"SHA256:[A-Za-z0-9+/]{43}|((\S+\s+)?(ssh-|ecdsa-|sk-)\S+\s+[A-Za-z0-9+/]+={0,2}(\s.*)?)"


def _host_key(value: Any) -> str:
    word = text(value)
    if re.fullmatch(_KEY, word):
        return word
    hint = "SHA256:… as `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it on the host, or the public key"
    raise fault(Code.RANGE, "not a host key", hint)


def _absolute(value: Any) -> str:
    word = text(value)
    if word.startswith(("/", "~/")) and word.isprintable() and ".." not in word.split("/"):
        return word.rstrip("/")
    raise fault(Code.RANGE, "not an absolute path", "such as /var/lib/falplan or ~/falplan")


def _folder(value: Any) -> str:
    word = _absolute(value)
    if word.startswith("/") and not re.search(r"[\s:'\"]", word):
        return word
    raise fault(Code.RANGE, "not an absolute path without spaces, quotes and colons", "such as /data/models")


def _ports(value: Any) -> str:
    word = text(value)
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", word)
    if found and 1024 <= int(found[1]) <= int(found[2] or found[1]) <= 65_535:
        return word
    raise fault(Code.RANGE, "not a range of ports from 1024 to 65535", "such as 20000-29999")


_KEY_SCHEMA: dict[str, Any] = {"type": "string", "pattern": "^(SHA256:|.*(ssh-|ecdsa-|sk-))"}
HostKeys = Annotated[
    list[str],
    PlainValidator(one_or_many(_host_key)),
    WithJsonSchema({"anyOf": [_KEY_SCHEMA, {"type": "array", "items": _KEY_SCHEMA, "minItems": 1}]}),
]
AbsolutePaths = Annotated[
    list[str],
    PlainValidator(one_or_many(_folder)),
    WithJsonSchema({"type": "array", "items": {"type": "string", "pattern": "^/"}}),
]
User = Annotated[
    str, PlainValidator(_user), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.@-]*$"})
]
Ports = Annotated[
    str, PlainValidator(_ports), WithJsonSchema({"type": ["string", "integer"], "pattern": "^\\d+(-\\d+)?$"})
]
Address = Annotated[str, PlainValidator(_host_address), WithJsonSchema({"type": "string", "minLength": 1})]
Jump = Annotated[str, PlainValidator(_jump), WithJsonSchema({"type": "string", "minLength": 1})]


class HostDefaults(Model):
    """How hosts are logged in to, and how they are used."""

    user: User | None = None
    """Who logs in. As ~/.ssh/config says, or whoever runs falplan, by default."""
    port: Port | None = None
    """Where sshd listens. As ~/.ssh/config says, or 22, by default."""
    identity_file: Text | None = None
    """Private key that people log in with. Those of ~/.ssh/config and of the agent by default; the control plane has a key of its own."""
    jump: Jump | None = None
    """Hosts to go through, `user@bastion:22`; several with commas. Their keys are those of ~/.ssh/known_hosts."""
    sudo: Bool | None = None
    """Act as root there, by a sudo that asks for no password."""
    reserve: Slots | None = None
    """How much is kept back from runners."""
    capacity: Capacity | None = None
    """How much there is, in place of what is detected."""
    strict: Bool | None = None
    """Refuse a host that is smaller than the machine type, in place of sharing it out."""
    install: Annotated[str, *one_of("index", "push")] | None = None
    """Where the packages of apps come from: from the index that the host reaches, by default, or pushed there by the control plane."""
    systemd: Bool | None = None
    """Keep runners as units of systemd where it runs the host. True by default; otherwise they are processes, which a restart of the
    host ends."""
    run_as: User | None = None
    """User of the host that runners run as where units of the system keep them. By default each app has a user of its own, who sees no home
    of anybody and may write nowhere but to its own."""
    writable: AbsolutePaths | None = None
    """Folders of the host that such a runner may write to beside its own, as far as its user may."""
    reach: Annotated[str, *one_of("ssh", "direct")] | None = None
    """How requests get to runners: through the SSH connection, by default, or directly, by TLS with a certificate and a token of each
    runner's own, at a port of the host."""
    direct_ports: Ports | None = None
    """With `reach: direct`, the ports of the host that runners are reached at, 20000-29999 by default: the control plane's machine has
    to get through to them."""


class SshHost(HostDefaults):
    """A host that runs sshd and has Python 3.9 or newer. What it does not say, its region says."""

    address: Address | None = None
    """Name or IP address, or an alias of ~/.ssh/config. The host's own name here by default."""
    host_key: HostKeys | None = None
    """The key that the host shows, as SHA256:… or in full; several while one replaces another. Otherwise plan shows the one that it
    shows, and apply asks whether it is right."""
    direct_address: Address | None = None
    """With `reach: direct`, the name or IP address at which the control plane reaches the ports of runners; `address` by default. Has to be
    said of a host with a `jump`."""
    protect: Bool = False
    """Refuse every plan that would remove the host."""


class SshRegion(RegionMoney, HostDefaults):
    """A region of hosts that are reached by SSH. What stands beside `hosts` holds for all of them."""

    provider: Annotated[str, *one_of("ssh")]
    """Who gives the machines."""
    hosts: dict[Name, SshHost | None] = Field(
        default={}, description="The hosts, by name.", examples=[{"gpu-01": {"address": "10.0.0.11"}}]
    )
    folder: Annotated[str, PlainValidator(_absolute), WithJsonSchema({"type": "string", "pattern": "^[~/]"})] | None = (
        None
    )
    """Where falplan keeps its things on each host: apps, environments, logs. ~/.local/share/falplan by default."""
