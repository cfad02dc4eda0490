"""What a program needs to talk to a project's gateway: hosts, key and certificates."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import FalplanError
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.engine.host_gateway import is_alone
from falplan.engine.project import Project
from falplan.engine.reaching import Where, ca_of, recorded_gateway, there_of
from falplan.stores.user_keys import cache_folder, given_key


@dataclass(frozen=True, slots=True)
class Access:
    """`variables` are those that fal_client reads; `lives_here`: they are good for as long as this process lives."""

    variables: dict[str, str] = field(repr=False)
    lives_here: bool = False


def access(options: Options, *, stays: bool = True) -> Access:
    """The environment variables that fal_client reads, for the gateway of the project at hand.

    With `stays` this process lives as long as whoever uses them: a gateway that listens on its host alone is reached through it.

    Raises:
        FalplanError: nothing was applied, or the control plane can't be reached.
    """
    project = open_here(options)
    state = project.applied()
    home = project.home(state.lineage)
    if project.where(state) is Where.HERE:
        at, key = home.endpoint(), options.environ.get("FALPLAN_KEY") or home.key("api")
        if at is None or key is None:
            raise FalplanError("The control plane is not running", "`falplan apply` starts it.")
        settings = home.gateway_settings()  # a certificate of one's own carries the name alone
        url = settings.url(settings.hostname, settings.port) if settings.cert else at.url
        return Access(_variables(url, key, str(home.ca_bundle)))
    outputs = recorded_gateway(state)
    if project.where(state) is Where.HOST:
        return _on_host(options, project, state, stays=stays)
    key = given_key(options.environ, state.lineage)
    if key is None:
        raise FalplanError("There is no key", "Set FALPLAN_KEY, or keep a key with `falplan login`.")
    ca = ca_of(project.spec) if project.where(state) is Where.GIVEN else str(outputs.get("ca") or "")
    return Access(_variables(str(outputs["url"]), key, _bundle(options, state.lineage, ca)))


def _on_host(options: Options, project: Project, state: State, *, stays: bool) -> Access:
    """By its own URL if callers elsewhere find it there; else by a port of this machine, for as long as this process lives."""
    outputs = recorded_gateway(state)
    url, ca = str(outputs.get("url") or ""), str(outputs.get("ca") or "")
    key = given_key(options.environ, state.lineage)
    tunnel = is_alone(state.resources[GATEWAY].inputs)
    if key is None or tunnel:
        there = there_of(project.spec, state, project.ways)
        if there is None:
            raise FalplanError("The control plane is not running", "`falplan apply` installs it.")
        seen = there.look()
        if not seen["alive"]:
            raise FalplanError(
                "The control plane is not running", f"It is stopped on {there.at}: `falplan apply` starts it."
            )
        key = key or there.key(seen, "api")
        if tunnel and not stays:
            detail = f"It listens on {there.at} alone. Use `falplan exec -- PROGRAM`, or set `gateway.listen` and `gateway.hostname`."
            raise FalplanError("Programs of this machine do not reach the gateway by themselves", detail)
        if tunnel:
            url = f"https://127.0.0.1:{there.port(seen)}"
    return Access(_variables(url, key, _bundle(options, state.lineage, ca)), lives_here=tunnel)


def _variables(url: str, key: str, ca_bundle: str) -> dict[str, str]:
    host = url.removeprefix("https://")
    return {
        "FAL_KEY": key,
        "FAL_RUN_HOST": f"{host}/run",
        "FAL_QUEUE_RUN_HOST": f"{host}/queue",
        "SSL_CERT_FILE": ca_bundle,
    }


def _bundle(options: Options, lineage: str, ca: str) -> str:
    """Public roots and the gateway's CA in one file: SSL_CERT_FILE replaces the public ones."""
    import certifi

    path = cache_folder(options.environ, lineage) / "ca-bundle.pem"
    content = Path(certifi.where()).read_bytes() + b"\n" + ca.encode()
    try:
        known = path.read_bytes()
    except FileNotFoundError:
        known = b""
    if known != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")  # several commands may make it at one time
        temporary.write_bytes(content)
        temporary.replace(path)
    return str(path)
