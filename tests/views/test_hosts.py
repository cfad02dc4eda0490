"""Hosts that were checked, as text and JSON, compared with golden files. `GOLDEN=write pytest tests/views` writes them anew."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema

from falplan.core.hostfacts import Engine, inventory_text
from falplan.core.preflight import Checked, problems_of
from falplan.core.problems import error
from falplan.views.hosts import check_schema, checked_json, checked_text, inventory_table, summary
from tests.core.test_preflight import FINE, GPUS, NEEDS, SYSTEMD, W
from tests.views.golden import check_golden

GONE = error("unreachable", "The host can't be reached: no answer within 30 s", "an answer", "look that it is up")


def fleet() -> list[Checked]:
    """Fifty hosts, of which most are fine."""
    hosts = [Checked(f"host.dc1.gpu-{n:02}", "dc1", f"gpu-{n:02}", f"gpu-{n:02}", (), FINE) for n in range(50)]
    old = replace(FINE, pythons=("3.9.2",), selinux=True)
    skewed = [replace(FINE, offset=90.0), replace(FINE, offset=-75.0)]
    for n in (3, 17):
        hosts[n] = replace(hosts[n], problems=problems_of(old, NEEDS), facts=old)
    for n, facts in zip((20, 21), skewed, strict=True):
        hosts[n] = replace(hosts[n], problems=problems_of(facts, NEEDS), facts=facts)
    for n in range(30, 45):
        facts = replace(FINE, docker=Engine("", False, "permission denied"))
        hosts[n] = replace(hosts[n], problems=problems_of(facts, NEEDS), facts=facts)
    hosts[49] = replace(hosts[49], problems=(GONE,), facts=None)
    return hosts


def test_a_large_fleet_is_told_by_what_hosts_have_in_common() -> None:
    check_golden(checked_text(fleet()), "host_check.txt")
    check_golden(inventory_table(fleet()[18:22] + fleet()[48:]) + "\n", "host_inventory.txt")


def test_its_json_is_as_the_schema_says() -> None:
    body = checked_json(fleet())
    jsonschema.validate(body, check_schema())

    assert body["ok"] is False
    assert body["summary"] == {"hosts": 50, "fine": 30, "warnings": 15, "errors": 4, "unreachable": 1}
    assert json.loads(json.dumps(body)) == body


def test_few_hosts_are_counted_in_words() -> None:
    one = fleet()[0]

    assert summary([one]) == "1 host is fine."
    assert summary([one, fleet()[30]]) == "1 host is fine; 1 has warnings: dc1/gpu-30."
    assert "none of these regions" in checked_text([])


def test_what_a_host_says_can_not_act_on_a_terminal() -> None:
    """Seen red with text as it came."""
    host = replace(fleet()[0], problems=(replace(GONE, seen="\x1b[2Jgone"),), facts=None)

    assert "\x1b" not in checked_text([host], inventory=True)


def test_what_is_kept_of_a_host_is_what_hardly_ever_changes() -> None:
    told = inventory_text(FINE)

    assert told["gpus"] == "2 x NVIDIA H100 80GB HBM3" and told["driver"] == "550.127.08"
    assert inventory_text(replace(FINE, smi=None, docker=None, systemd=replace(SYSTEMD, first=False))).keys() == {
        "cpu",
        "ram",
        "disk",
        "system",
        "python",
    }
    assert not {p for p in problems_of(FINE, GPUS) if p.severity is W}
