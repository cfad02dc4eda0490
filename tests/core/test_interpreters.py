"""Apps whose environment can't be made where they may run: what is refused, what is warned of, and what is said of each machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from falplan.core.capacity import capacity_of
from falplan.core.consequences import consequences
from falplan.core.findings import Finding, refusal_text
from falplan.core.interpreters import judge_interpreters
from falplan.core.placement import GIB, Need, NoRoom, Placed, Slots, place, slots_from_json, slots_to_json
from falplan.core.planner import make_plan
from falplan.core.resources import Resource
from falplan.core.spec.resolved import MachineType
from falplan.core.state import State
from falplan.core.systems import System, has_python, how_to_install
from falplan.core.values import Json

from .builders import LINEAGE, a_state, an_app, wanted

TYPES = {"XS": MachineType("XS", 0.5, 512 * 10**6), "GPU-H100": MachineType("GPU-H100", 12, 112 * 10**9, "H100", 1)}
EMPTY = State("demo", LINEAGE, 0)
DEBIAN = System("x86_64", "glibc", "2.36", ("3.9", "3.11"), packager="apt-get")
FEDORA = replace(DEBIAN, pythons=("3.12",), packager="dnf")
OLD = Slots("dc1/old", "dc1", 2, 8 * GIB, 2, 8 * GIB, system=DEBIAN)
NEW = replace(OLD, machine_id="dc1/new", system=FEDORA)
SILENT = Slots("dc1/silent", "dc1", 0, 0, 0, 0, unknown="it does not answer")


def app(name: str = "web", **settings: Json) -> Resource:
    values: dict[str, Any] = {"machine_type": ["XS"], **settings}
    return an_app(name, **values)


def judged(*machines: Slots, python: str = "3.12", version: str | None = None, state: State = EMPTY) -> list[Finding]:
    plan = make_plan(wanted(app(python_version=version)), state, {})
    return judge_interpreters(plan, (), machines, TYPES, python)


def test_an_app_that_no_machine_has_the_python_for_is_refused_with_the_way_to_get_it() -> None:
    (found,) = judged(OLD, replace(OLD, machine_id="dc1/other"))

    assert found.refuses and found.address == "app.main.web"
    assert found.message == "app.main.web needs Python 3.12, which none of the 2 machines that it may be put on has"
    assert found.detail == (
        "dc1/old, dc1/other have python3.9, python3.11: `sudo apt-get install python3.12` there, or `uv python install 3.12`",
        "or another `python_version` for the app, or other `regions`",
    )
    assert refusal_text([found])[0] == "Refused by a Python that is missing"


def test_an_app_that_some_machines_have_the_python_for_is_warned_of_and_put_on_those() -> None:
    """Seen red with a placement that knew nothing of interpreters: the first machine was taken."""
    (found,) = judged(OLD, NEW)
    placed = place(Need(("XS",), python="3.12"), [OLD, NEW], TYPES)

    assert not found.refuses and "1 of the 2 machines that it may be put on lack" in found.message
    assert isinstance(placed, Placed) and placed.machine_id == "dc1/new"
    refused = place(Need(("XS",), python="3.13"), [OLD, NEW], TYPES)
    assert isinstance(refused, NoRoom) and refused.lacking and not refused.ever
    assert refused.reasons == (
        "dc1/old: XS does not fit: its environment needs Python 3.13, the machine has python3.9, python3.11",
        "dc1/new: XS does not fit: its environment needs Python 3.13, the machine has python3.12",
    )


def test_a_machine_that_can_not_be_asked_refuses_nothing() -> None:
    """Seen red with what is unknown taken for missing."""
    assert judged(SILENT) == [] == judged(replace(OLD, system=None))
    (found,) = judged(OLD, SILENT)
    assert not found.refuses and found.message.endswith("lacks, as far as they could be asked")


def test_machines_on_which_the_app_is_never_put_do_not_count() -> None:
    elsewhere = replace(NEW, machine_id="dc2/new", region="dc2")
    plan = make_plan(wanted(app(python_version="3.12", regions=["dc1"])), EMPTY, {})
    (found,) = judge_interpreters(plan, (), [OLD, elsewhere], TYPES, "")
    assert found.refuses

    large = make_plan(wanted(an_app(machine_type=["GPU-H100"], python_version="3.12")), EMPTY, {})
    assert judge_interpreters(large, (), [OLD], TYPES, "") == []  # it finds no room, whatever is installed there


def test_the_python_of_the_control_plane_counts_for_apps_that_ask_for_none() -> None:
    assert judged(OLD, python="3.11") == []
    assert [f.refuses for f in judged(OLD, python="3.11", version="3.13")] == [True]
    assert judged(OLD, python="") == []  # that of a control plane that says nothing
    command = replace(app(), dependencies=("gateway",))  # runs in no environment
    assert judge_interpreters(make_plan(wanted(command), EMPTY, {}), (), [OLD], TYPES, "3.12") == []


def test_an_app_that_the_plan_leaves_as_it_is_has_its_environment() -> None:
    (found,) = judged(OLD, state=a_state(app(python_version=None)))

    assert not found.refuses


def test_the_reason_is_told_once_and_not_as_a_lack_of_room() -> None:
    plan = make_plan(wanted(app(min_concurrency=1)), EMPTY, {})
    follow, (missing,) = consequences(plan, (), [OLD], TYPES, "3.12")
    capacity = capacity_of(plan, (), [OLD], TYPES, follow=follow, missing=[missing], prices={}, python="3.12")

    assert missing.lacking and missing.advice == "No machine that is large enough has what it is run with."
    assert capacity.missing == (missing,)


@pytest.mark.parametrize(
    ("version", "known"), [("3.11", True), ("3.11.4", None), ("3.1", False), ("3.10", None), ("3.13", False)]
)
def test_a_script_of_a_version_manager_leaves_open_whether_there_is_one(version: str, known: bool | None) -> None:
    assert has_python(replace(DEBIAN, shims=("3.10",)), version) is known


@pytest.mark.parametrize(
    ("packager", "offline", "command"),
    [
        ("apt-get", False, "`sudo apt-get install python3.12` there, or `uv python install 3.12`"),
        ("dnf", False, "`sudo dnf install python3.12` there, or `uv python install 3.12`"),
        ("zypper", True, "`sudo zypper install python312` there, from a mirror that it reaches"),
        ("apk", False, "`uv python install 3.12` there"),
        ("", True, "`uv python install 3.12` there, from a mirror that it reaches"),
    ],
)
def test_each_system_has_its_command(packager: str, offline: bool, command: str) -> None:
    assert how_to_install(System(packager=packager, offline=offline), "3.12.1") == command


def test_a_machine_is_told_and_understood_whatever_else_is_told_of_it() -> None:
    body = slots_to_json(OLD)

    assert slots_from_json(body) == OLD
    assert slots_from_json({**body, "later": 1, "system": {**body["system"], "later": 2}}) == OLD  # type: ignore[dict-item]
    assert slots_from_json({k: v for k, v in body.items() if k != "system"}) == replace(OLD, system=None)


def test_an_image_that_no_machine_has_an_engine_for_is_refused_and_left_out_where_one_lacks_it() -> None:
    """Seen red with a placement that knew nothing of engines: the first machine was taken."""
    none = replace(OLD, system=replace(DEBIAN, engines=()))
    one = replace(NEW, system=replace(FEDORA, engines=("podman",)))
    image = replace(app(), inputs={**app().inputs, "kind": "image", "image": f"x@sha256:{'a' * 64}"})
    plan = make_plan(wanted(image), EMPTY, {})
    (found,) = judge_interpreters(plan, (), [none], TYPES, "3.11")

    assert found.refuses and refusal_text([found])[0] == "Refused by a container engine that is missing"
    assert found.message == "app.main.web needs Podman or Docker, which the only machine that it may be put on lacks"
    assert found.detail[0].startswith(
        "dc1/old has neither that falplan's user there can use: `sudo apt-get install podman` there"
    )
    (warned,) = judge_interpreters(plan, (), [none, one], TYPES, "3.11")
    assert not warned.refuses
    assert judge_interpreters(plan, (), [OLD], TYPES, "3.11") == []  # nobody looked
    placed = place(Need(("XS",), engine=True), [none, one], TYPES)
    assert isinstance(placed, Placed) and placed.machine_id == "dc1/new"
    refused = place(Need(("XS",), engine=True), [none], TYPES)
    assert isinstance(refused, NoRoom) and refused.lacking and "needs Podman or Docker" in refused.reasons[0]
    assert slots_from_json(slots_to_json(one)) == one
    assert slots_from_json(slots_to_json(none)) == none
