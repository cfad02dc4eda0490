"""`falplan prune`: what is beyond the limits goes, with its bytes; what is unfinished, alive or needed stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.faults.sandbox import Sandbox, client_environ, wait_until

pytestmark = pytest.mark.faults


def home_of(box: Sandbox) -> Path:
    [folder] = (box.folder / "state" / "falplan").iterdir()
    return folder


class Queue:
    """The sandbox's queue, as callers see it."""

    def __init__(self, box: Sandbox) -> None:
        values = client_environ(box)
        headers = {"authorization": f"Key {values['FAL_KEY']}"}
        self.pool = urllib3.PoolManager(ca_certs=values["SSL_CERT_FILE"], headers=headers, retries=False)
        self.base = f"https://{values['FAL_QUEUE_RUN_HOST']}/acme"

    def submit(self, app: str, **body: Any) -> str:
        return str(self.pool.request("POST", f"{self.base}/{app}", json=body, timeout=30).json()["status_url"])

    def status(self, url: str) -> str:
        answer = self.pool.request("GET", url, timeout=30)
        return str(answer.json()["status"]) if answer.status < 400 else str(answer.status)


def pruned(box: Sandbox, *args: str) -> dict[str, tuple[int, int]]:
    body = json.loads(box.must("prune", "--json", *args).out)
    return {p["what"]: (p["count"], p["size"]) for p in body["pruned"] if p["count"]}


def ended_runners(box: Sandbox) -> list[str]:
    found = json.loads(box.must("runners", "list", "--all", "--json").out)
    return [r["runner_id"] for r in found if r["state"] == "TERMINATED"]


def make_old(folder: Path) -> None:
    """Two hours older than they are: what nothing needs stays for an hour."""
    then = time.time() - 7200
    for path in folder.iterdir():
        os.utime(path, (then, then))


def test_finished_requests_go_and_unfinished_ones_stay(box: Sandbox) -> None:
    """Seen red with requests chosen by when they were accepted, whatever their status."""
    box.must("apply", "--auto-approve")
    queue = Queue(box)
    done = queue.submit("one", n=1)
    wait_until(lambda: queue.status(done) == "COMPLETED", 60)
    # They last longer than all that follows, however slow the machine is, and end with the sandbox.
    running, waiting = queue.submit("two", n=2, sleep=600), queue.submit("two", n=3, sleep=600)
    wait_until(lambda: queue.status(running) == "IN_PROGRESS", 60)

    assert "finished requests" not in pruned(box, "--keep-requests", "1h")
    dry = pruned(box, "--dry-run", "--keep-requests", "0s")
    assert dry["finished requests"][0] == 1
    assert dry["finished requests"][1] > 0
    assert queue.status(done) == "COMPLETED"
    assert pruned(box, "--keep-requests", "0s")["finished requests"] == dry["finished requests"]
    assert queue.status(done) == "404"
    assert {queue.status(running), queue.status(waiting)} <= {"IN_PROGRESS", "IN_QUEUE"}
    assert "finished requests" not in pruned(box, "--keep-requests", "0s")


def test_ended_runners_and_what_no_revision_needs_go_and_the_live_revision_serves_on(box: Sandbox) -> None:
    """Seen red with a prune that asked no revision what it needs."""
    box.must("apply", "--auto-approve")
    box.version += 1
    box.write()
    box.must("apply", "--auto-approve")
    home = home_of(box)
    ended = ended_runners(box)
    (home / "bundles" / f"{'0' * 64}.tar.gz").write_bytes(b"nobody's")
    (home / "locks" / f"{'0' * 64}.json").parent.mkdir(exist_ok=True)
    (home / "locks" / f"{'0' * 64}.json").write_text("{}")
    (home / "machine" / "environments" / ("0" * 20)).mkdir(parents=True)
    (home / "machine" / "environments" / ("0" * 20) / "file").write_bytes(b"x" * 1000)
    fresh = home / "bundles" / f"{'1' * 64}.tar.gz"
    for n in "123":
        (home / f"before-restore-{n}").mkdir()
        (home / f"before-restore-{n}" / "control.db").write_bytes(b"x" * 10)
    make_old(home / "bundles")
    make_old(home / "locks")
    fresh.write_bytes(b"just uploaded")
    needed = {p.name for p in (home / "bundles").iterdir()} - {f"{'0' * 64}.tar.gz"}
    assert ended

    dry = pruned(box, "--dry-run", "--keep-runners", "0", "--keep-events", "0s")
    assert dry["ended runners"][0] == len(ended)
    assert dry["ended runners"][1] > 0
    assert dry["uploaded bundles"] == (1, 8)
    assert dry["environments"] == (1, 1000)
    assert dry["locks"] == (1, 2)
    assert dry["replaced data"] == (1, 10)
    assert dry["events and ended operations"][0] > 0
    assert (home / "machine" / "runners" / ended[0]).exists()
    told = box.must("prune", "--keep-runners", "0", "--keep-events", "0s").out
    assert "DELETED" in told
    assert "ended runners" in told

    assert not ended_runners(box)
    assert not any((home / "machine" / "runners" / r).exists() for r in ended)
    assert {p.name for p in (home / "bundles").iterdir()} == needed
    assert not (home / "machine" / "environments" / ("0" * 20)).exists()
    assert not (home / "before-restore-1").exists()
    assert (home / "before-restore-3").exists()
    assert "Nothing is beyond the limits" in box.must("prune").out
    box.must("call", "one", '{"n": 1}')
    box.check_converged()
    box.destroy()


def test_a_prune_killed_half_way_is_finished_by_the_next(box: Sandbox) -> None:
    """Seen red with runners forgotten in the database first: nobody knew their folders any more."""
    box.must("apply", "--auto-approve")
    box.version += 1
    box.write()
    box.must("apply", "--auto-approve")
    ended = ended_runners(box)
    # The control plane keeps house once at its start, with the limits by default: the second time is ours.
    mine = ("prune.runners.before", "prune.runners.after", "prune.unused.before", "prune.unused.after")
    for point in ("request.forget.after_commit=kill", *(f"{p}=kill@2" for p in mine)):
        box.kill_control_plane()
        box.must("apply", "--auto-approve", FALPLAN_FAILPOINTS=point)
        box.must("call", "one", '{"n": 1}')
        box.run("prune", "--keep-requests", "0s", "--keep-runners", "0")
        wait_until(lambda: not box.processes("serve"), 20)
        box.must("apply", "--auto-approve")
    box.must("prune", "--keep-runners", "0")

    assert not ended_runners(box)
    assert not any((home_of(box) / "machine" / "runners" / r).exists() for r in ended)
    box.check_converged()
    box.destroy()


def test_a_wrong_limit_is_a_usage_error(box: Sandbox) -> None:
    ran = box.run("prune", "--keep-requests", "soon")

    assert ran.code == 64
    assert "no duration" in ran.err
