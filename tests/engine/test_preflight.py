"""What is wanted of the hosts of a spec before anybody looks at them."""

from __future__ import annotations

from pathlib import Path

from falplan.engine.preflight import own_platform, subjects
from falplan.engine.provided import provided_by
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
