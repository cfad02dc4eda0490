"""The fault cases: kill at every failpoint, and kill at random instants, each followed by the checks that must hold.

Seen red with broken twins: an apply that starts the control plane before its lineage is saved (gateway.start.after_spawn: state refused,
a control plane that nobody knows); a controller that records a runner after starting it and looks for no strays
(runner.launch.after_intent: a process that nobody knows); state written in place (state.save.before_rename: half a file);
a rollout that moves on the first health check alone (rollout.switch.before_commit: apply waits for ever).
"""

from __future__ import annotations

import json
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import urllib3

from .points import all_points
from .sandbox import Broken, Sandbox, kill, wait_until


@dataclass
class Case:
    """One case with its name, which says how to repeat it."""

    name: str
    run: Callable[[], object]


def _set_secret(box: Sandbox, **more: str) -> None:
    """A value that is kept beside the state until there is a control plane."""
    box.set_secret("KEPT", b"kept-1", **more)


def _new_secrets(box: Sandbox, **more: str) -> None:
    """A new value of each secret, and a new key of the project."""
    box.planted = "planted-2"
    box.set_secret("KEPT", b"kept-2", **more)
    box.run("secrets", "rotate-key", **more)
    box.run("apply", "--auto-approve", **more)


def _first(box: Sandbox, **more: str) -> None:
    box.run("apply", "--auto-approve", **more)


def _call(box: Sandbox, **more: str) -> None:
    box.run("call", "one", '{"n": 1}', **more)


def _caller(box: Sandbox) -> tuple[urllib3.PoolManager, str] | None:
    values = json.loads(box.run("env", "--json").out or "{}")
    if not values:
        return None
    headers = {"authorization": f"Key {values['FAL_KEY']}"}
    pool = urllib3.PoolManager(ca_certs=values["SSL_CERT_FILE"], headers=headers, retries=False)
    return pool, f"https://{values['FAL_QUEUE_RUN_HOST']}/acme"


def _call_and_cancel(box: Sandbox, **more: str) -> None:
    caller = _caller(box)
    if caller is None:
        return
    pool, base = caller
    try:
        answer = pool.request("POST", f"{base}/two", json={"n": 2, "sleep": 1}, timeout=20).json()
        pool.request("PUT", answer["cancel_url"], timeout=20)
    except (urllib3.exceptions.HTTPError, KeyError, ValueError):
        pass  # the control plane died, as it was told to


def _lose_runner(box: Sandbox, **more: str) -> None:
    """A runner dies in mid-request: the request goes back to the queue and another runner answers it."""
    caller = _caller(box)
    if caller is None:
        return
    pool, base = caller
    try:
        answer = pool.request("POST", f"{base}/one", json={"n": 3, "sleep": 1.5}, timeout=20).json()
        wait_until(lambda: pool.request("GET", answer["status_url"], timeout=20).json()["status"] == "IN_PROGRESS", 20)
        for processes in box.runner_marks().values():
            kill(processes)
        wait_until(lambda: pool.request("GET", answer["status_url"], timeout=20).json()["status"] == "COMPLETED", 30)
    except (urllib3.exceptions.HTTPError, KeyError, ValueError):
        pass  # the control plane died, as it was told to


def _keys(box: Sandbox, **more: str) -> None:
    made = box.run("keys", "create", "--json", **more)
    if made.code == 0:
        box.run("keys", "revoke", json.loads(made.out)["key_id"], **more)


def _unset_secret(box: Sandbox, **more: str) -> None:
    """A secret that no app uses is set, and forgotten."""
    box.spare = True
    box.write()
    box.set_secret("SPARE", b"spare-1", "spare", **more)
    box.run("secrets", "unset", "SPARE", "-e", "spare", **more)
    box.spare = False
    box.write()


def _stop_runner(box: Sandbox, **more: str) -> None:
    runners = json.loads(box.run("runners", "list", "--json").out or "[]")
    if runners:
        box.run("runners", "stop", runners[0]["runner_id"], **more)


def _prune(box: Sandbox, **more: str) -> None:
    box.run("prune", **more)


def _removed_app(box: Sandbox, **more: str) -> None:
    """An app, its build and a secret are taken out of the spec."""
    box.reduced = True
    box.write()
    box.run("apply", "--auto-approve", **more)
    box.reduced = False
    box.write()


def _backup(box: Sandbox, **more: str) -> None:
    box.run("backup", "backup.tar.gz", **more)


def _new_code(box: Sandbox, **more: str) -> None:
    box.version += 1
    box.write()
    box.run("apply", "--auto-approve", **more)


def _new_settings(box: Sandbox, **more: str) -> None:
    box.most += 1
    box.write()
    box.run("apply", "--auto-approve", **more)


def _override(box: Sandbox, **more: str) -> None:
    """Settings are changed by hand."""
    box.run("apps", "scale", "one", "--max-concurrency", "6", "--keep-alive", "200", **more)
    box.run("apps", "auth", "one", "public", **more)


def _rollback(box: Sandbox, **more: str) -> None:
    """Another revision is applied, and the one before it serves again."""
    _new_code(box)
    box.run("apps", "rollback", "one", **more)


def _reset(box: Sandbox, **more: str) -> None:
    """Settings and the revision go back to what was applied."""
    _rollback(box)
    box.run("apps", "scale", "one", "--max-concurrency", "7")
    box.run("apps", "reset", "one", **more)


def _older_database(box: Sandbox, **more: str) -> None:
    """The database is put back as it was before the newest revision, and apply tells the control plane what it lacks."""
    homes = list((box.folder / "state" / "falplan").glob("*/control.db"))
    if not homes:
        return
    box.kill_control_plane()
    files = {path: path.read_bytes() for path in homes[0].parent.glob("control.db*") if path.is_file()}
    _new_code(box)
    box.kill_control_plane()
    for path in homes[0].parent.glob("control.db*"):
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)
    box.run("apply", "--auto-approve", **more)


def _new_gateway(box: Sandbox, **more: str) -> None:
    """Another name for the gateway: a control plane with it takes over from the one that serves."""
    box.hostname = f"host-{box.version}-{box.most}.localhost"
    box.write()
    box.run("apply", "--auto-approve", **more)


def _broken_code(box: Sandbox, **more: str) -> None:
    (box.project / "one.py").write_text("raise SystemExit('broken on purpose')\n")
    box.run("apply", "--auto-approve", **more)
    box.write()


def _destroy(box: Sandbox, **more: str) -> None:
    box.run("destroy", "--auto-approve", **more)


PHASES: dict[str, Callable[..., None]] = {
    "set secret": _set_secret,
    "first apply": _first,
    "call": _call,
    "cancel": _call_and_cancel,
    "lost runner": _lose_runner,
    "keys": _keys,
    "unset secret": _unset_secret,
    "stop runner": _stop_runner,
    "prune": _prune,
    "backup": _backup,
    "new code": _new_code,
    "new settings": _new_settings,
    "override": _override,
    "rollback": _rollback,
    "reset": _reset,
    "older database": _older_database,
    "new gateway": _new_gateway,
    "new secrets": _new_secrets,
    "broken code": _broken_code,
    "removed app": _removed_app,
    "destroy": _destroy,
}
"""What is done with a project, in this order. A failpoint is tried in each phase that passes it."""

APPLY_FIRST = (
    "call",
    "cancel",
    "lost runner",
    "keys",
    "unset secret",
    "stop runner",
    "prune",
    "backup",
    "override",
    "rollback",
    "reset",
    "new gateway",
    "destroy",
)
"""Phases that start no control plane by themselves; one has to run with the point set."""

BY_HAND = ("override", "rollback", "reset")
"""Phases in which somebody changes the control plane itself, which it finishes once it runs again; an apply that starts it can't see that."""

ON_THE_WAY = ("set secret", "first apply")
"""Phases that are gone through on the way to a later one."""


def phases_of_points() -> dict[str, list[str]]:
    """Failpoint -> the phases that pass it, found by running them all once and reading the log of points."""
    box = Sandbox(secrets=True)
    log = box.folder / "points.log"
    found: dict[str, list[str]] = {}
    try:
        for phase, act in PHASES.items():
            log.unlink(missing_ok=True)
            log.touch()
            act(box, FALPLAN_FAILPOINTS_LOG=str(log))
            for name in sorted(set(log.read_text().split())):
                found.setdefault(name, []).append(phase)
    finally:
        box.clean()
    return found


def rounds_of_points(rng: random.Random, full: bool) -> Iterator[Case]:
    """Each failpoint in each phase that passes it: killed there, then everything has to converge."""
    phases = phases_of_points()
    missing = sorted(set(all_points()) - set(phases) - ELSEWHERE)
    yield Case("every failpoint is passed by some phase", lambda: _none_missing(missing))
    cases = passes(phases, every=full)
    rng.shuffle(cases)
    for point, phase in cases * (10 if full else 1):
        yield Case(f"{point} in {phase}", lambda point=point, phase=phase: kill_at_point(point, phase))  # type: ignore[misc]


def passes(phases: Mapping[str, list[str]], *, every: bool) -> list[tuple[str, str]]:
    """(failpoint, phase) of every phase that passes it, or of the first one alone."""
    here = {point: where for point, where in phases.items() if point not in ELSEWHERE}
    return [(point, phase) for point, where in sorted(here.items()) for phase in (where if every else where[:1])]


ELSEWHERE: frozenset[str] = frozenset(
    {
        # The project of these phases has no region whose provider owns resources: tests/acceptance/test_provided.py kills there.
        "apply.host.before_act",
        "apply.host.after_act",
        "apply.network.before_act",
        "apply.network.after_act",
        "provided.replace.before_create",
        "provided.replace.before_delete",
        # Nor one that is reached by SSH: tests/acceptance/test_hosts.py kills at most of these, tests/sdk/test_ssh.py breaks
        # connections at the others.
        "ssh.run.after_lost",
        "ssh.put.before_piece",
        "ssh.forward.after_begin",
        "ssh.marker.before_first",
        "ssh.marker.after_first",
        "ssh.marker.before_write",
        "ssh.marker.after_write",
        "ssh.access.after_write",
        "ssh.end.after_clear",
        "ssh.remove.after_agents",
        # Nor one whose control plane is on a host: tests/acceptance/test_gateway_on_host.py kills at these.
        "host_gateway.claim.after",
        "host_gateway.install.after",
        "host_gateway.start.after",
        "host_gateway.handover.after",
        "host_gateway.keep.after",
        "host_gateway.remove.after_stop",
        "ssh.remove.before_marker",
        "host.join.before",
        "host.leave.before",
        "host.forget.before",
        "hosts.save.before_write",
        "hosts.save.before_fsync",
        "hosts.save.before_rename",
        "hosts.save.after_rename",
        "call.add_host.before_send",
        "call.add_host.after_answer",
        "call.remove_host.before_send",
        "call.remove_host.after_answer",
        "call.forget_host.before_send",
        "call.forget_host.after_answer",
        "operation.add_host.before_begin",
        "operation.add_host.after_begin",
        "operation.add_host.before_end",
        "operation.add_host.after_end",
        "operation.remove_host.before_begin",
        "operation.remove_host.after_begin",
        "operation.remove_host.before_end",
        "operation.remove_host.after_end",
        "operation.forget_host.before_begin",
        "operation.forget_host.after_begin",
        "operation.forget_host.before_end",
        "operation.forget_host.after_end",
        "call.close_region.before_send",
        "call.close_region.after_answer",
        "operation.close_region.before_begin",
        "operation.close_region.after_begin",
        "operation.close_region.before_end",
        "operation.close_region.after_end",
        "region.close.before",
        # What a person asks for of machines that were bought: tests/faults/bought.py kills the control plane at each of these.
        "call.end_machine.before_send",
        "call.end_machine.after_answer",
        "operation.end_machine.before_begin",
        "operation.end_machine.after_begin",
        "operation.end_machine.before_end",
        "operation.end_machine.after_end",
        "call.reap.before_send",
        "call.reap.after_answer",
        "operation.reap.before_begin",
        "operation.reap.after_begin",
        "operation.reap.before_end",
        "operation.reap.after_end",
        "host.add.after_write",
        "host.forget.after_close",
        "host.remove.after_close",
        "host.remove.before_write",
        # They kill the agent, not the program that called it, and would do so at each call: tests/control/test_ledger.py.
        "ledger.save.before_write",
        "ledger.save.before_rename",
        "ledger.save.after_rename",
        "agent.start.after_reserve",
        "agent.start.after_supervisor",
        # Nothing is bought in these phases: tests/providers/aws kills before and after each note and each call, and tests/faults/bought.py
        # kills at each of these.
        "aws.launch.after_intent",
        "aws.launch.after_call",
        "aws.launch.after_verdict",
        "fleet.want.after_intent",
        "fleet.buy.after_answer",
        "fleet.end.before_call",
        "fleet.give_back.after_record",
        "fleet.save.before_commit",
        "fleet.save.after_commit",
        "fleet.attempt.before_commit",
        "fleet.attempt.after_commit",
        # No phase meets an older database: tests/stores/runtime/test_migrations.py kills at every line of a migration.
        "database.stamp.before",
        "database.keep.before_copy",
        "database.keep.before_rename",
        "database.migrate.before",
        "database.migrate.before_commit",
        "database.migrate.after",
        # Nor does one go back from an upgrade: the same file kills at every line of that, too.
        "database.restore.before_rename",
        "database.restore.after_rename",
        # A restore needs a stopped control plane: tests/acceptance/test_backups.py kills at each of these, tests/stores/test_backups.py
        # at every line.
        "restore.unpack.before",
        "restore.unpack.after",
        "restore.exchange.before",
        "restore.save.before_write",
        "restore.save.before_fsync",
        "restore.save.before_rename",
        "restore.save.after_rename",
        "restore.move.before",
        "restore.move.after",
        "restore.intent.before_removed",
        "restore.intent.after_removed",
        # No phase renames an app or has outputs: tests/acceptance/test_refactoring.py kills here.
        "app.replace.before_delete",
        "outputs.keep.before_save",
        "outputs.keep.after_save",
        # No phase has a broken state: tests/stores/state/test_repair.py kills here.
        "state.repair.before_journal_removed",
        "state.repair.before_write",
        # A plan's JSON is for other programs, and no phase asks for it: tests/cli/test_plan_output.py kills here.
        "plan_json.save.before_write",
        "plan_json.save.before_fsync",
        "plan_json.save.before_rename",
        "plan_json.save.after_rename",
        # The phases keep state beside the spec, and take no lock over: tests/stores/state/test_leases.py kills at each of these on a real
        # server, test_places.py at those of a migration.
        "s3.lock.before_put",
        "s3.lock.after_put",
        "s3.write.before_put",
        "s3.write.after_put",
        "postgres.lock.before_take",
        "postgres.lock.before_commit",
        "postgres.lock.after_commit",
        "postgres.write.before_commit",
        "postgres.write.after_commit",
        "state_lock.fence.before_close",
        "state_lock.fence.before_write",
        "state_lock.fence.after_write",
        "migrate.copy.before_write",
        "migrate.copy.after_write",
        "migrate.note.before_write",
        "migrate.note.after_write",
        # No phase prunes requests, whose results the later ones look at: tests/acceptance/test_pruning.py kills here.
        "request.forget.after_commit",
    }
)
"""Points that other tests kill at, with the reason beside each one."""


def _none_missing(missing: list[str]) -> None:
    if missing:
        raise Broken(f"no phase passes {', '.join(missing)}")


def kill_at_point(point: str, phase: str) -> None:
    """Go through the phases up to one; kill at the point in it; then converge, destroy, and leave nothing."""
    strike_at_point(Sandbox(secrets=True), point, phase, "kill")


def strike_at_point(
    box: Sandbox, point: str, phase: str, how: str, after: Callable[[], None] = lambda: None, **more: str
) -> None:
    """The same with another failure than a kill, as failpoints take it, and a check `after` it. The sandbox is removed."""
    try:
        log = box.folder / "points.log"
        log.touch()
        strike = {"FALPLAN_FAILPOINTS": f"{point}={how}", "FALPLAN_FAILPOINTS_LOG": str(log), **more}
        for name, act in PHASES.items():
            if name == phase:
                _act_struck(box, name, act, strike)
                break
            if name in ON_THE_WAY:
                act(box)
        if point not in log.read_text().split():
            raise Broken(f"{point} was not passed in {phase}: the case proves nothing")
        after()
        box.write()
        if point.startswith("handover."):
            box.kill_control_plane()  # its successors would be struck, too: it was started with the point set
        if phase != "destroy":
            if phase in BY_HAND:
                box.must("apply", "--auto-approve")
                _until_nothing_runs(box)
            if phase in ("set secret", "new secrets"):
                box.set_secret("KEPT", b"kept-3")  # nobody knows whether it was kept before
            box.check_converged()
        # A world that has converged is like any other: every third of them is gone through to its end.
        if phase == "destroy" or zlib.crc32(point.encode()) % 3 == 0:
            if phase != "destroy":
                box.must("call", "one", '{"n": 9}')
            box.destroy()
    finally:
        box.clean()


def _until_nothing_runs(box: Sandbox) -> None:
    """What was begun before the kill is finished by the control plane that runs now."""

    def running() -> list[str]:
        entries = json.loads(box.must("audit", "--json").out)
        return [e["what"] for e in entries if e["outcome"] == "running"]

    wait_until(lambda: not running(), 60, running)


def _act_struck(box: Sandbox, phase: str, act: Callable[..., None], strike: dict[str, str]) -> None:
    """The point may lie in the control plane: it is started anew, with the point set."""
    if phase != "first apply":
        box.kill_control_plane()
    if phase in APPLY_FIRST:
        box.run("apply", "--auto-approve", **strike)
    act(box, **strike)


def random_kills(rng: random.Random, full: bool) -> Iterator[Case]:
    """kill -9 of apply, and of the control plane, at random instants of a first deploy and of redeploys."""
    for number in range(1000 if full else 50):
        seed = rng.randrange(2**32)
        yield Case(f"kill {number} (seed {seed})", lambda seed=seed: kill_at_random(random.Random(seed)))  # type: ignore[misc]


def kill_at_random(rng: random.Random) -> None:
    """Two applies killed at random instants, one of them with the control plane; then converge."""
    box = Sandbox(least=rng.choice([0, 1]), secrets=True)
    try:
        box.set_secret("KEPT", b"kept-1")
        for _ in range(2):
            process = box.start("apply", "--auto-approve")
            time.sleep(rng.uniform(0, 3))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if rng.random() < 0.5:
                box.kill_control_plane()
            box.version += 1
            box.write()
        box.check_converged()
        box.destroy()
    finally:
        box.clean()
