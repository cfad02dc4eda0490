"""What is told of machines that are there: each region's part, whatever is under way, whose others are, and why nothing is bought."""

from __future__ import annotations

from typing import Any

from falplan.core.holdings import holdings_section, unknown_section
from falplan.core.report import Tone

NOW = 10_000.0
REGION = {"region": "us-east", "most": 4, "budget": "60", "open": True, "closed": "", "short": {}, "paused": []}
PAUSED = {"because": "use1-az2 p5.48xlarge on-demand: no capacity 3 min ago", "until": NOW + 180}


def machine(name: str = "us-east/m-1", life: str = "ready", **more: Any) -> dict[str, Any]:
    own = {"machine": name, "region": "us-east", "life": life, "kind": "p5.4xlarge", "price": "6.88"}
    return {**own, "since": NOW - 120, "because": "", **more}


def shown(**more: Any) -> dict[str, Any]:
    own = {"region": "us-east", "identity": "i-1", "kind": "p5.48xlarge", "zone": "use1-az4", "price": "55.04"}
    return {**own, "control_plane": "cp-old", "made_at": NOW - 7200, **more}


def texts(told: dict[str, Any], **more: Any) -> list[str]:
    return [row.text for row in holdings_section(told, now=NOW, **more).rows]


def test_nothing_is_told_where_there_is_nothing() -> None:
    assert holdings_section({"machines": [], "foreign": [], "regions": [REGION]}, now=NOW).rows == ()
    assert holdings_section({}, now=NOW).body == {}


def test_a_region_tells_what_its_machines_cost_of_what_they_may() -> None:
    machines = [machine(), machine("us-east/m-2", "starting", because="for app.main.app"), machine(life="gone")]
    section = holdings_section({"machines": machines, "regions": [REGION]}, now=NOW)
    assert [row.text for row in section.rows] == [
        "us-east: 2 machines of 4, $13.76 of $60.00 an hour",
        "us-east/m-2: p5.4xlarge, $6.88 an hour, starting for 2 min",
    ]
    assert section.rows[1].detail == ("for app.main.app",)
    assert len(section.body["machines"]) == 2  # type: ignore[arg-type]
    assert len(texts({"machines": machines, "regions": [REGION]}, listed=True)) == 1


def test_another_control_planes_machine_is_told_with_its_cost_and_the_way_out() -> None:
    section = holdings_section({"foreign": [shown()], "regions": [REGION]}, now=NOW)
    row = section.rows[-1]
    assert row.tone is Tone.WARNING
    assert row.text == (
        "us-east: i-1 (p5.48xlarge, use1-az4), $55.04 an hour, for 2 h, belongs to control plane cp-old, not to this one"
    )
    assert "falplan machines reap --gateway-is-dead cp-old" in row.detail[0]


def test_pools_that_are_left_alone_and_a_region_that_is_closed_say_why() -> None:
    region = {**REGION, "closed": "the credentials have expired", "paused": [PAUSED]}
    assert texts({"regions": [region]})[1:] == [
        "us-east: nothing is bought now: the credentials have expired",
        "us-east: use1-az2 p5.48xlarge on-demand: no capacity 3 min ago (asked again in 3 min)",
    ]


def test_what_no_control_plane_tells_of_is_unknown() -> None:
    section = unknown_section({"us-east": [shown(price="")]}, "The control plane tells nothing: it is stopped", now=NOW)
    [row] = section.rows
    assert (
        row.tone is Tone.WARNING and "of unknown price" in row.text and "nobody knows whether it is needed" in row.text
    )
    assert row.detail == ("The control plane tells nothing: it is stopped",)
    assert unknown_section({}, "", now=NOW).rows == ()
