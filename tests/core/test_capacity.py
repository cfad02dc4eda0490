"""Where runners stand once a plan is applied, which GPUs are stranded, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from falplan.core.capacity import Capacity, capacity_of, capacity_section
from falplan.core.consequences import LiveRunner, NoPlace, alike, consequences
from falplan.core.placement import GIB, Placed, Slots
from falplan.core.planner import make_plan
from falplan.core.resources import Resource
from falplan.core.spec.resolved import MachineType
from falplan.core.state import State
from falplan.core.walk import Walk

from .builders import LINEAGE, a_gateway, a_host, a_state, an_app, wanted

A100 = MachineType("GPU-A100", 12, 60 * 10**9, "A100", 1, 40 * 10**9)
TYPES = {"XS": MachineType("XS", 0.5, 512 * 10**6), "GPU-A100": A100}
GPUS = Slots(
    "gpu-01", "dc1", 96, 1024 * GIB, 96, 1024 * GIB, 8, tuple(range(8)), "NVIDIA A100-SXM4-40GB", 40960 * 1024**2
)
LAPTOP = Slots("laptop", "dc1", 2, 8 * GIB, 2, 8 * GIB)
PRICES = {"dc1": {"GPU-A100": Decimal("2.5")}}
EMPTY = State("demo", LINEAGE, 0)


def capacity(
    *apps: Resource, state: State = EMPTY, runners: tuple[LiveRunner, ...] = (), machines: tuple[Slots, ...] = (GPUS,)
) -> Capacity:
    plan = make_plan(wanted(*apps), state, {})
    follow, missing = consequences(plan, runners, machines, TYPES)
    return capacity_of(plan, runners, machines, TYPES, follow=follow, missing=missing, prices=PRICES)


def a_gpu_app(name: str = "flux", gpus: int = 1, min_concurrency: int = 1) -> Resource:
    return an_app(name, machine_type=["GPU-A100"], num_gpus=gpus, min_concurrency=min_concurrency)


def a_live_one(address: str, *gpus: int) -> LiveRunner:
    return LiveRunner(address, "r", Placed("gpu-01", "dc1", "GPU-A100", 12, 60 * 10**9, gpus))


def test_the_map_names_machine_and_gpus_of_every_runner() -> None:
    found = capacity(a_gpu_app("one", 4), a_gpu_app("two", 2, min_concurrency=2))

    assert [(s.address, s.placed.machine_id, s.placed.gpus) for s in found.spots] == [
        ("app.main.one", "gpu-01", (0, 1, 2, 3)),
        ("app.main.two", "gpu-01", (4, 5)),
        ("app.main.two", "gpu-01", (6, 7)),
    ]
    assert found.machines[0].gpus == ()
    assert found.stranded == ()


def test_gpus_that_no_app_can_use_are_stranded_and_have_a_price() -> None:
    """Seen red with GPUs counted as usable when a machine type without any would fit."""
    beside = an_app("web", machine_type=["XS"])
    found = capacity(a_gpu_app(gpus=3, min_concurrency=2), beside)
    (stranded,) = found.stranded

    assert (stranded.machine_id, stranded.gpus, stranded.price) == ("gpu-01", (6, 7), Decimal(5))
    assert stranded.because == "GPU-A100 does not fit: it needs 3 GPU, 2 of 8 are free"
    assert capacity(a_gpu_app(gpus=3, min_concurrency=2), a_gpu_app("small")).stranded == ()


def test_nothing_is_stranded_where_no_app_asks_for_gpus() -> None:
    assert capacity(an_app(machine_type=["XS"], min_concurrency=1)).stranded == ()


def test_what_runs_stays_and_what_is_replaced_gives_its_place_back() -> None:
    """Seen red without the room of drained runners: the machine looked full after the deploy."""
    before = a_gpu_app(gpus=4)
    there = replace(GPUS, gpus=(4, 5, 6, 7))
    runner = a_live_one("app.main.flux", 0, 1, 2, 3)
    same = capacity(before, state=a_state(before), runners=(runner,), machines=(there,))
    after = replace(before, inputs={**before.inputs, "files": {"app.py": "bb"}})
    rolled = capacity(after, state=a_state(before), runners=(runner,), machines=(there,))

    assert [(s.placed.gpus, s.because) for s in same.spots] == [((0, 1, 2, 3), "runs already")]
    assert [s.placed.gpus for s in rolled.spots] == [(4, 5, 6, 7)]
    assert rolled.machines[0].gpus == (0, 1, 2, 3)


def test_runners_leave_regions_in_which_the_app_may_not_run_any_more() -> None:
    """Those are the ones that go, and not any of the app's; machines that are not known keep theirs."""
    before = an_app("web", machine_type=["XS"], min_concurrency=2, regions=["dc1", "dc2"])
    after = an_app("web", machine_type=["XS"], min_concurrency=2, regions=["dc2"])
    there, elsewhere = replace(LAPTOP, machine_id="here"), replace(LAPTOP, machine_id="there", region="dc2")
    runners = tuple(
        LiveRunner("app.main.web", "r", Placed(m, r, "XS", 0.5, 512 * 10**6))
        for m, r in (("here", "dc1"), ("there", "dc2"))
    )
    found = capacity(after, state=a_state(before), runners=runners, machines=(there, elsewhere))

    assert [(s.placed.machine_id, s.because) for s in found.spots] == [
        ("there", "runs already"),
        ("there", "min_concurrency 2, 1 are up where it may run now"),
    ]
    unknown = capacity(after, state=a_state(before), runners=runners, machines=(elsewhere,))
    assert [s.placed.machine_id for s in unknown.spots] == ["here", "there"]


def test_runners_leave_hosts_that_are_replaced_or_removed() -> None:
    """Seen red with `runs already` of what is drained in this very plan, and no word of the draining."""
    app = an_app("web", machine_type=["XS"], min_concurrency=1)
    hosts = [a_host("a"), a_host("b")]
    state = a_state(a_gateway(), *hosts, app)
    runner = LiveRunner("app.main.web", "r", Placed("dc1/a", "dc1", "XS", 0.5, 512 * 10**6))
    there = tuple(replace(LAPTOP, machine_id=f"dc1/{name}") for name in "ab")

    moved = [replace(h, inputs={"home": "/srv"}) for h in hosts]
    plan = make_plan(wanted(a_gateway(), *moved, app), state, {})
    (follows,), _ = consequences(plan, [runner], there, TYPES)
    assert (follows.effect, follows.count, follows.because) == ("drain", 1, "host.dc1.a is replaced")
    found = capacity_of(plan, [runner], there, TYPES, follow=[follows], prices=PRICES)
    assert [s.because for s in found.spots] == ["min_concurrency 1"]

    plan = make_plan(wanted(a_gateway(), hosts[1], app), state, {})
    (follows,), _ = consequences(plan, [runner], there[1:], TYPES)
    assert follows.because == "host.dc1.a is removed"
    found = capacity_of(plan, [runner], there[1:], TYPES, follow=[follows], prices=PRICES)
    assert [(s.placed.machine_id, s.because) for s in found.spots] == [("dc1/b", "min_concurrency 1")]


def test_hosts_of_a_region_are_replaced_a_quarter_at_a_time() -> None:
    """Seen red with all of them at once, and nowhere for their runners to go."""
    for number, at_once in ((3, 1), (9, 2)):
        hosts = [a_host(f"h{n}") for n in range(number)]
        plan = make_plan(
            wanted(a_gateway(), *(replace(h, inputs={"home": "/srv"}) for h in hosts)), a_state(a_gateway(), *hosts), {}
        )
        walk = Walk({a: tuple(d for d in before if d.startswith("host.")) for a, before in plan.after.items()})
        waves: list[list[str]] = []
        while ready := walk.start() if not waves else [n for name in waves[-1] for n in walk.finish(name)]:
            waves.append(ready)
        assert max(map(len, waves)) == at_once and sum(map(len, waves)) == number


def test_an_app_that_the_plan_leaves_alone_still_needs_its_runners() -> None:
    app = a_gpu_app(min_concurrency=2)
    found = capacity(app, state=a_state(app), runners=(), machines=(GPUS,))

    assert [s.because for s in found.spots] == ["min_concurrency 2"] * 2


def test_what_does_not_fit_is_told_with_each_machine_and_its_reason() -> None:
    found = capacity(a_gpu_app(gpus=8, min_concurrency=2), machines=(GPUS, LAPTOP))
    (missing,) = found.missing
    rows = capacity_section(found, TYPES, PRICES).rows

    assert missing.reasons == (
        "gpu-01: GPU-A100 does not fit: it needs 8 GPU, 0 of 8 are free",
        "laptop: GPU-A100 does not fit: it needs 8 GPU, the machine has none",
    )
    assert rows[-1].text == "no room for a runner of app.main.flux: Lower min_concurrency of an app, or add a machine."
    assert rows[-1].detail == missing.reasons


def test_the_section_has_a_price_for_every_runner_and_stranded_gpu() -> None:
    section = capacity_section(capacity(a_gpu_app(gpus=5)), TYPES, PRICES)

    assert [r.text for r in section.rows] == [
        "gpu-01 (dc1): 1 runner, 3 of 8 GPUs free",
        "stranded on gpu-01: 3 GPUs (NVIDIA A100-SXM4-40GB 5, 6, 7), $7.50/h",
    ]
    body: Any = section.body
    assert body["machines"][0]["runners"][0]["price_per_hour"] == "12.5"
    assert capacity_section(capacity(a_gpu_app()), TYPES, PRICES, rows=False).rows == ()


def test_apps_without_room_for_the_same_reasons_are_told_of_once() -> None:
    """Seen red with a paragraph for each of 500 apps."""
    reasons = ("laptop: it has no GPU",)
    missing = [NoPlace(f"app.main.a{n:03}", reasons, "Add a machine.") for n in range(500)]
    missing.append(NoPlace("app.main.other", reasons, "Lower min_concurrency of an app, or add a machine."))
    told = alike(missing)

    assert [who for who, _ in told] == ["app.main.a000, app.main.a001, app.main.a002 and 497 more", "app.main.other"]
    assert [(one.advice, one.reasons) for _, one in told] == [
        ("Add a machine.", reasons),
        (missing[-1].advice, reasons),
    ]
