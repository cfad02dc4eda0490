"""What is changed on a control plane by hand: live at once, shown by plan, gone with the next apply, kept over a kill."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3

from tests.acceptance.load import Load
from tests.faults.sandbox import Sandbox, client_environ, wait_until

pytestmark = pytest.mark.faults


def row(box: Sandbox) -> Any:
    apps = json.loads(box.must("apps", "list", "--json").out)
    return next(a for a in apps if a["endpoint"] == "acme/one")


def up(box: Sandbox) -> int:
    """Runners of the app that are ready, and none that is not."""
    states = row(box)["runners"]
    return sum(states.values()) if set(states) <= {"IDLE", "RUNNING"} else -1


def differences(box: Sandbox) -> dict[str, Any]:
    """What `falplan plan --json` says would change of the app: name of the setting, or input -> (live, wanted)."""
    plan = json.loads(box.must("plan", "--json").out)
    found: dict[str, Any] = {}
    for resource in plan["resource_changes"]:
        change = resource["change"]
        if resource["address"] != "app.main.one" or change["actions"] == ["no-op"]:
            continue
        before, after = change["before"], change["after"]
        for name in ("files", "command"):
            if before[name] != after[name]:
                found[name] = (before[name], after[name])
        names = before["settings"].keys() | after["settings"].keys()
        for name in names:
            pair = before["settings"].get(name), after["settings"].get(name)
            if pair[0] != pair[1]:
                found[name] = pair
    return found


@pytest.fixture
def started_again(box: Sandbox) -> Iterator[Callable[[], None]]:
    """kill -9 of the control plane, and `falplan serve` in its place: nothing is applied."""
    serving: list[subprocess.Popen[bytes]] = []

    def again() -> None:
        box.kill_control_plane()
        (home,) = (box.folder / "state" / "falplan").iterdir()
        argv = [*box.falplan, "serve", "--home", str(home), "--lineage", home.name]
        quiet = subprocess.DEVNULL
        serving.append(subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=box.environ()))
        wait_until(lambda: box.run("apps", "list", "--json").code == 0, 30, box.serve_log)

    yield again
    for process in serving:
        process.kill()
        process.wait()


@pytest.fixture
def deployed(box: Sandbox) -> Sandbox:
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    return box


def test_a_scale_under_load_loses_nothing_and_is_returned_by_apply(
    deployed: Sandbox, started_again: Callable[[], None]
) -> None:
    """Seen red with overrides in memory alone: after the kill nothing was overridden, and plan was empty."""
    box = deployed
    load = Load(box, callers=8)
    load.start()
    load.wait_for(1)
    said = box.must("apps", "scale", "one", "--min-concurrency", "3", "--max-concurrency", "4", "--keep-alive", "5m")
    wait_until(lambda: up(box) == 3, 30)
    box.must("apps", "scale", "one", "--min-concurrency", "1", "--max-concurrency", "1")
    wait_until(lambda: up(box) == 1, 30)
    load.stop()

    assert load.failures == []
    assert "app.main.one: min_concurrency 1 -> 3" in said.out
    assert "until the next `falplan apply`" in said.out
    assert differences(box) == {"max_concurrency": (1, 2)}
    told = row(box)["overrides"]
    started_again()
    assert row(box)["overrides"] == told
    assert set(told) == {"settings.max_concurrency"}
    assert differences(box) == {"max_concurrency": (1, 2)}
    assert box.run("plan", "--detailed-exitcode").code == 2
    box.check_converged()
    assert row(box)["overrides"] == {}


def test_auth_is_opened_and_closed(deployed: Sandbox, started_again: Callable[[], None]) -> None:
    """Seen red with a gateway that was not told: 401 without a key."""
    box = deployed
    values = client_environ(box)
    pool = urllib3.PoolManager(ca_certs=values["SSL_CERT_FILE"], retries=False)
    url = f"https://{values['FAL_RUN_HOST']}/acme/one"

    def without_a_key() -> int:
        return pool.request("POST", url, json={"n": 1}, timeout=30).status

    assert without_a_key() == 401
    box.must("apps", "auth", "app.main.one", "public")
    assert without_a_key() == 200
    assert differences(box) == {"auth": ("public", "private")}
    started_again()
    assert without_a_key() == 200
    box.must("apps", "auth", "acme/one", "private")
    assert without_a_key() == 401
    assert differences(box) == {}
    assert row(box)["overrides"] == {}
    box.check_converged()


def test_a_rollback_and_the_way_forward_by_apply(deployed: Sandbox, started_again: Callable[[], None]) -> None:
    """Seen red with a row that told the inputs of the applied revision: plan was empty, and apply changed nothing."""
    box = deployed
    first = row(box)["revision"]
    box.version = 2
    box.write()
    box.must("apply", "--auto-approve")
    second = row(box)["revision"]
    load = Load(box, callers=8)
    load.start()
    load.wait_for(2)
    said = box.must("apps", "rollback", "one")
    load.wait_for(1)
    load.stop()

    assert load.failures == []
    assert f"app.main.one: revision {second} -> {first}" in said.out
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 1
    assert set(differences(box)) == {"files"}
    told = row(box)["overrides"]["revision"]
    assert (told["value"], told["applied"]) == (first, second)
    (entry,) = [e for e in json.loads(box.must("audit", "app.main.one", "--json").out) if e["kind"] == "set_revision"]
    assert told["by"] == f"{entry['by']['name']} ({entry['by']['key_id']})"
    assert told["since"] == entry["at"]
    started_again()
    assert row(box)["overrides"]["revision"] == told
    listed = {r["revision"]: r["state"] for r in json.loads(box.must("apps", "revisions", "one", "--json").out)}
    assert listed == {first: "serving", second: "kept"}

    box.check_converged()
    assert (row(box)["revision"], row(box)["overrides"]) == (second, {})
    assert json.loads(box.must("call", "one", '{"n": 2}').out)["version"] == 2


def test_a_rollback_to_a_revision_that_is_broken_now_leaves_the_one_that_serves(deployed: Sandbox) -> None:
    """It needs a file that is gone from the machine. Seen red with an alias that moved at once."""
    box = deployed
    needed = box.folder / "needed"
    needed.touch()
    good = (box.project / "one.py").read_text()
    (box.project / "one.py").write_text(f"import pathlib; pathlib.Path({str(needed)!r}).read_text()\n{good}")
    box.must("apply", "--auto-approve")
    box.version = 3
    box.write()
    box.must("apply", "--auto-approve")
    serves = row(box)["revision"]
    needed.unlink()
    ran = box.run("apps", "rollback", "one")

    assert ran.code == 7
    assert f"{serves} keeps serving" in ran.err
    assert "FileNotFoundError" in ran.err
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 3
    assert (row(box)["revision"], row(box)["overrides"]) == (serves, {})
    assert box.run("plan", "--detailed-exitcode").code == 0
    assert "nothing is overridden" in box.must("apps", "reset", "one").out


def test_reset_needs_no_apply_and_errors_name_what_is_near(deployed: Sandbox) -> None:
    box = deployed
    box.must("apps", "scale", "one", "--keep-alive", "7", "--request-start-timeout", "30")
    said = box.must("apps", "reset", "one", "--json")
    answer = json.loads(said.out)
    assert answer["changed"]["settings.keep_alive"] == {"before": 7, "after": 300}
    assert (answer["overrides"], differences(box)) == ({}, {})
    typo, wrong = box.run("apps", "scale", "onne", "--keep-alive", "1"), box.run("apps", "auth", "one", "publik")
    nothing, high = box.run("apps", "scale", "one"), box.run("apps", "scale", "one", "--min-concurrency", "9")

    assert (typo.code, wrong.code, nothing.code, high.code) == (1, 64, 64, 6)
    assert 'did you mean "one"?' in typo.err
    assert "Name at least one setting" in nothing.err
    assert "min_concurrency 9 is above max_concurrency 2" in high.err
    assert row(box)["overrides"] == {}
