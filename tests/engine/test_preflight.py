"""What is wanted of the hosts of a spec before anybody looks at them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from falplan.engine.observe import Observed
from falplan.engine.planning import _new_hosts
from falplan.engine.preflight import subjects
from falplan.engine.provided import provided_by
from falplan.sdk.here import own_platform
from falplan.sdk.values import Inventory, Machine
from falplan_providers.ssh import SshRegion
from tests.stores.spec.project import load

SPEC = """\
version: 1
project: shop
gateway: {host: dc1/b}
regions:
  dc1: {provider: ssh, hosts: {a: {}, b: {}, c: {}}}
apps: {web: {command: [python3, web.py], files: [web.py]}}
"""


def test_only_the_host_of_the_control_plane_has_to_be_able_to_run_one(tmp_path: Path) -> None:
    spec = load(tmp_path, SPEC, {"web.py": ""})

    found = subjects(spec, provided_by(spec))

    assert {s.short: s.needs.gateway for s in found} == {"dc1/a": "", "dc1/b": own_platform(), "dc1/c": ""}


def test_a_plan_asks_hosts_once_for_what_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a plan that asked for its runners, and again for its map: a silent host takes half a minute each time."""
    spec = load(
        tmp_path,
        SPEC.replace("{a: {}, b: {}, c: {}}", "{a: {}, b: {host_key: 'SHA256:" + "A" * 43 + "'}}"),
        {"web.py": ""},
    )
    asked: list[str] = []

    def machines_of(region: SshRegion, names: Iterable[str]) -> list[Machine]:
        asked.extend(names)
        return [Machine(f"dc1/{n}", "dc1", "ssh", Inventory(1, 1, 1)) for n in names]

    monkeypatch.setattr(SshRegion, "machines_of", machines_of)
    observed = Observed(provided=provided_by(spec), trusting={"host.dc1.a": "SHA256:y"})
    first, second = _new_hosts(observed, set()), _new_hosts(observed, set())

    assert asked == ["b"] and first == second
    assert {m.machine_id: m.unknown for m in first} == {"dc1/b": "", "dc1/a": "it is asked once its key is confirmed"}
