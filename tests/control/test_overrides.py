"""Overrides by the real controller: live at once, told with what was applied, gone with the next deploy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from falplan.core.operations import Asker, OperationStatus
from falplan.core.runtime import AuthMode
from falplan.core.values import JsonObject
from falplan.stores.runtime.control import AppRow, RevisionRow, RolloutRow
from tests.control.machine_in_memory import (
    ADDRESS,
    BAD,
    ENDPOINT,
    KIM,
    InMemory,
    Running,
    a_control_plane,
    about,
    deploy_body,
)


def overrides(plane: Running) -> dict[str, Any]:
    return cast("dict[str, Any]", plane.row()["overrides"])


def live(plane: Running, name: str) -> Any:
    return cast("dict[str, Any]", plane.row()["inputs"])["settings"][name]


async def revision(plane: Running, wanted: str, **more: Any) -> Any:
    return await plane.ask("set_revision", {**about(), "revision": wanted}, **more)


async def test_a_scaled_app_is_told_with_what_was_applied_since_when_and_by_whom(tmp_path: Path) -> None:
    """Seen red with rows whose inputs stayed as they were applied."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        done = await plane.scale(max_concurrency=8, keep_alive="5m")
        found = overrides(plane)

        assert done.status is OperationStatus.DONE
        assert (live(plane, "max_concurrency"), live(plane, "keep_alive")) == (8, 300)
        assert set(found) == {"settings.max_concurrency", "settings.keep_alive"}
        told = found["settings.max_concurrency"]
        assert (told["value"], told["applied"], told["by"]) == (8, 2, "for Kim (key-00000000000a)")
        assert told["since"].endswith("Z")
        assert plane.controller.world.app_view(plane.controller.world.apps[ENDPOINT]).scaling.max_concurrency == 8


async def test_a_value_set_back_drops_its_override_and_one_asked_for_again_stays_as_old_as_it_was(
    tmp_path: Path,
) -> None:
    """Seen red with an override of 2 in place of 2, and with a `since` of the last call."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        await plane.scale(max_concurrency=8)
        first = overrides(plane)["settings.max_concurrency"]
        await plane.ask(
            "override", {**about(), "settings": {"max_concurrency": 8}}, asker=Asker("key-00000000000b", "for Lee")
        )
        assert overrides(plane)["settings.max_concurrency"] == first
        await plane.scale(max_concurrency=9)
        assert overrides(plane)["settings.max_concurrency"]["applied"] == 2
        await plane.scale(max_concurrency=2)

        assert overrides(plane) == {}


async def test_min_concurrency_starts_runners_at_once(tmp_path: Path) -> None:
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy(max_concurrency=4)
        await plane.scale(min_concurrency=3)
        async with asyncio.timeout(20):
            await plane.controller.world.until(lambda: len(plane.controller.world.runners) == 3)


async def test_auth_counts_for_the_next_call(tmp_path: Path) -> None:
    """Seen red with a change that the gateway was not told of."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        modes = []
        for mode in ("public", "private"):
            await plane.scale(auth=mode)
            app = plane.dispatcher.app(ENDPOINT)
            modes.append(app.auth if app else None)

        assert modes == [AuthMode.PUBLIC, AuthMode.PRIVATE]
        assert overrides(plane) == {}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"min_concurrency": 2}, "min_concurrency 2 is above max_concurrency 1: change both. Nothing was changed."),
        ({"max_concurrency": 0}, "max_concurrency: 0 is out of range (allowed: 1 or more)"),
        ({"keep_alive": "soon"}, 'keep_alive: not a duration: "soon"'),
        ({"max_concurency": 3}, 'there is no setting "max_concurency"; did you mean "max_concurrency"? Nothing'),
        ({"max_multiplexing": 3}, "max_multiplexing belongs to the revision: change it in the spec, and apply"),
        ({"regions": ["locl"]}, 'there is no region "locl"; did you mean "local"? Nothing'),
        ({"auth": "shared"}, "does not support"),
        ({"max_concurrency": True}, "max_concurrency: expected a whole number"),
    ],
)
async def test_what_the_spec_would_refuse_is_refused(tmp_path: Path, wanted: dict[str, Any], said: str) -> None:
    """Seen red without the check of pairs, and with one of the values given alone."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy(max_concurrency=1)
        before = plane.row()
        done = await plane.scale(**wanted)

        assert (done.status, done.outcome["code"]) == (OperationStatus.FAILED, 6)
        assert said in str(done.outcome["detail"])
        assert plane.row()["inputs"] == before["inputs"]
        assert overrides(plane) == {}


@pytest.mark.parametrize("bundle", ["one", "two"])
async def test_the_next_deploy_returns_the_app_to_the_spec(tmp_path: Path, bundle: str) -> None:
    """In place, and by a rollout. Seen red with either of them keeping the overrides."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy("one")
        await plane.scale(max_concurrency=8)
        await plane.deploy(bundle, keep_alive=20)

        assert overrides(plane) == {}
        assert (live(plane, "max_concurrency"), live(plane, "keep_alive")) == (2, 20)
        assert plane.controller.world.apps[ENDPOINT].settings["max_concurrency"] == 2


async def test_a_scale_during_a_deploy_outlives_it(tmp_path: Path) -> None:
    """It is newer than the deploy. Seen red with an override of the app alone: the end of the rollout took it away."""
    machine = InMemory(slow={"two"})
    async with a_control_plane(tmp_path, machine) as plane:
        await plane.deploy("one")
        deploy = asyncio.create_task(plane.ask("deploy", deploy_body("two", max_concurrency=3)))
        world = plane.controller.world
        async with asyncio.timeout(20):
            await world.until(lambda: bool((r := world.open_rollout(ENDPOINT)) and r.rollout.runner_id))
        await plane.scale(max_concurrency=8)
        assert overrides(plane)["settings.max_concurrency"]["applied"] == 2
        machine.slow.clear()
        rows = [r for r in world.runners.values() if world.definition(r.endpoint, r.revision).bundle == "two"]
        for row in rows:
            await machine.start(row, world.definition(row.endpoint, row.revision), print)
        assert (await deploy).status is OperationStatus.DONE

        told = overrides(plane)["settings.max_concurrency"]
        assert (live(plane, "max_concurrency"), told["value"], told["applied"]) == (8, 8, 3)


async def test_a_rollback_serves_the_older_code_with_the_settings_that_are_live(tmp_path: Path) -> None:
    """Seen red with a rollback that brought the older revision's runtime settings with it."""
    async with a_control_plane(tmp_path) as plane:
        first = (await plane.deploy("one", startup_timeout=60, max_concurrency=2)).outcome["revision"]
        second = (await plane.deploy("two", startup_timeout=90, max_concurrency=5)).outcome["revision"]
        await plane.scale(keep_alive=77)
        done = await revision(plane, str(first))
        row = plane.row()

        assert done.status is OperationStatus.DONE
        assert row["revision"] == first
        assert cast("dict[str, Any]", row["inputs"])["files"] == {"app.py": "one"}
        assert (live(plane, "startup_timeout"), live(plane, "max_concurrency"), live(plane, "keep_alive")) == (
            60,
            5,
            77,
        )
        told = overrides(plane)["revision"]
        assert (told["value"], told["applied"], told["by"]) == (first, second, str(KIM))
        assert set(overrides(plane)) == {"revision", "settings.keep_alive"}
        async with asyncio.timeout(20):
            await plane.controller.world.until(lambda: plane.bundles() == {"one"})

        await revision(plane, str(second))
        assert set(overrides(plane)) == {"settings.keep_alive"}


async def test_a_revision_that_is_bad_never_serves(tmp_path: Path) -> None:
    """Seen red with an alias that moved before a runner was healthy."""
    async with a_control_plane(tmp_path) as plane:
        first = (await plane.deploy("one")).outcome["revision"]
        assert (await plane.deploy(BAD)).status is OperationStatus.FAILED
        bad = next(r["revision"] for r in plane.account.revisions(ENDPOINT) if r["served_at"] is None)
        done = await revision(plane, bad)

        assert (done.status, done.outcome["code"]) == (OperationStatus.FAILED, 7)
        assert f"{first} keeps serving" in str(done.outcome["detail"])
        assert "falplan apps revisions" in str(done.outcome["detail"])
        assert plane.row()["revision"] == first
        assert overrides(plane) == {}


async def test_a_revision_that_is_not_kept_or_lacks_a_secret_is_refused(tmp_path: Path) -> None:
    """Seen red with a rollout that began without its secret: it waited for runners that could not start."""
    async with a_control_plane(tmp_path) as plane:
        body: JsonObject = {**deploy_body("one"), "secrets": {"TOKEN": "secret-00000000000f"}}
        await plane.secrets.put("op-secret-1", "main", "TOKEN", secret(b"a"), "secret-00000000000f")
        first = (await plane.ask("deploy", body)).outcome["revision"]
        await plane.deploy("two")
        await plane.secrets.remove("main", "TOKEN")
        lacking, unknown = await revision(plane, str(first)), await revision(plane, "r-000000000000")

        assert lacking.outcome["code"] == unknown.outcome["code"] == 6
        assert "values of TOKEN that are not kept any more" in str(lacking.outcome["detail"])
        assert 'has no revision "r-000000000000"; known: ' in str(unknown.outcome["detail"])


def secret(value: bytes) -> Any:
    from falplan.core.secret import SecretValue

    return SecretValue(value)


async def test_reset_brings_back_everything_that_was_applied(tmp_path: Path) -> None:
    """Seen red with a reset of the settings alone."""
    async with a_control_plane(tmp_path) as plane:
        first = (await plane.deploy("one")).outcome["revision"]
        await plane.deploy("two", max_concurrency=5)
        before = plane.row()
        await plane.scale(max_concurrency=9, auth="public")
        await revision(plane, str(first))
        done = await plane.ask("reset", about())

        assert done.status is OperationStatus.DONE
        assert (plane.row()["inputs"], plane.row()["revision"]) == (before["inputs"], before["revision"])
        assert overrides(plane) == {}


async def test_to_keep_what_serves_gives_up_what_was_to_take_its_place(tmp_path: Path) -> None:
    machine = InMemory(slow={"two"})
    async with a_control_plane(tmp_path, machine) as plane:
        first = str((await plane.deploy("one")).outcome["revision"])
        deploy = asyncio.create_task(plane.deploy("two"))
        world = plane.controller.world
        async with asyncio.timeout(20):
            await world.until(lambda: world.open_rollout(ENDPOINT) is not None)
        await revision(plane, first)

        assert (await deploy).status is OperationStatus.FAILED
        assert (plane.row()["revision"], overrides(plane)) == (first, {})


async def test_overrides_and_a_rollback_under_way_survive_the_control_plane(tmp_path: Path) -> None:
    """Seen red with overrides kept in memory, and with a rollout that lost them when it was taken up again."""
    machine = InMemory()
    async with a_control_plane(tmp_path, machine) as plane:
        first = str((await plane.deploy("one")).outcome["revision"])
        second = str((await plane.deploy("two")).outcome["revision"])
        await plane.scale(max_concurrency=8)
        told = overrides(plane)
        world = plane.controller.world
        async with asyncio.timeout(20):
            await world.until(lambda: plane.bundles() == {"two"} and len(world.runners) == 1)
        machine.slow.add("one")
        name = await plane.begin("set_revision", {**about(), "revision": first})
        async with asyncio.timeout(20):
            await world.until(lambda: bool((r := world.open_rollout(ENDPOINT)) and r.rollout.runner_id))

    async with a_control_plane(tmp_path, machine) as plane:
        assert overrides(plane) == told
        machine.slow.clear()
        world = plane.controller.world
        for row in list(world.runners.values()):
            await machine.start(row, world.definition(row.endpoint, row.revision), print)
        async with asyncio.timeout(20):
            await world.until(lambda: world.apps[ENDPOINT].revision == first)
        done = await plane.ask("set_revision", {**about(), "revision": first}, operation=name)

        assert done.status is OperationStatus.DONE
        assert overrides(plane)["revision"]["applied"] == second
        assert overrides(plane)["settings.max_concurrency"] == told["settings.max_concurrency"]


async def test_revisions_are_told_with_where_they_stand_and_when_they_served(tmp_path: Path) -> None:
    """Seen red with a time of making that was the time of the last deploy."""
    async with a_control_plane(tmp_path) as plane:
        first = str((await plane.deploy("one")).outcome["revision"])
        await plane.deploy("two")
        before = plane.account.revisions(ENDPOINT)
        await plane.deploy("one")
        after = plane.account.revisions(ENDPOINT)

        assert [r["state"] for r in before] == ["kept", "serving"]
        assert [r["state"] for r in after] == ["serving", "kept"]
        assert after[0]["revision"] == first
        assert [r["created_at"] for r in after] == [r["created_at"] for r in before]
        assert after[0]["served_at"] > before[1]["served_at"] > before[0]["served_at"]


async def test_a_revision_from_before_inputs_were_kept_can_serve_again(tmp_path: Path) -> None:
    """Its files have no names then: every one differs from what was applied, as it should."""
    async with a_control_plane(tmp_path) as plane:
        first = str((await plane.deploy("one", startup_timeout=60)).outcome["revision"])
        await plane.deploy("two")
        store = plane.controller.world.store
        row = store.revision(ENDPOINT, first)
        assert row is not None
        await store.save(RevisionRow(row.endpoint, row.revision, row.definition, row.created_at))
        await revision(plane, first)
        inputs = cast("dict[str, Any]", plane.row()["inputs"])

        assert (inputs["files"], inputs["settings"]["startup_timeout"]) == ({}, 60)
        assert inputs["command"] == ["python", "app.py"]


async def test_every_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        await plane.scale(max_concurrency=8)
        world = plane.controller.world
        apps: list[AppRow] = world.store.apps()
        rollouts: list[RolloutRow] = world.store.rollouts()

        assert apps == list(world.apps.values())
        assert rollouts == list(world.rollouts.values())
        assert apps[0].address == ADDRESS
