"""Every call that changes something carries an operation id: repeated, it gets its first outcome and has no second effect."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest

from falplan.core.bodies import BODIES
from falplan.core.operations import CALLS, OperationKind
from falplan.core.values import JsonObject
from falplan.engine.client import AdminClient, Answered, OperationFailed
from falplan.engine.local_gateway import reach
from falplan.stores.home import ControlHome
from tests.faults.sandbox import Broken, Sandbox, wait_until

KEY = "key-0123456789ab"


@pytest.fixture
def world(box: Sandbox) -> Sandbox:
    """A deployed project with a secret that no app uses, and a runner that has ended."""
    box.secrets = True
    box.write()
    box.set_secret("KEPT", b"kept")
    box.must("apply", "--auto-approve")
    box.spare = True
    box.write()
    box.set_secret("SPARE", b"spare", "spare")
    box.spare = False
    box.write()
    box.must("call", "one", '{"n": 1}')
    for runner in json.loads(box.must("runners", "list", "--json").out):
        box.must("runners", "stop", runner["runner_id"])
    return box


def client_of(box: Sandbox) -> AdminClient:
    (folder,) = (box.folder / "state" / "falplan").iterdir()
    client = reach(ControlHome(folder))
    assert client is not None
    return client


@dataclass(frozen=True)
class Mutation:
    """A call, and what tells that it had its effect."""

    method: str
    path: str
    body: JsonObject = field(default_factory=dict)
    content: bytes | None = None
    effect: Callable[[Sandbox], Any] = lambda box: None

    def send(self, box: Sandbox, operation: str) -> Any:
        client = client_of(box)
        if self.content is not None:
            return client.upload(f"{self.path}?operation={operation}", io.BytesIO(self.content))
        return client.send(self.method, self.path, self.body, operation=operation)


def keys(box: Sandbox) -> list[Any]:
    return [(k["key_id"], k["revoked_at"]) for k in client_of(box).get("/keys")["keys"]]


def secrets(box: Sandbox) -> list[Any]:
    return [(r["address"], r["version"]) for r in client_of(box).get("/secrets")["secrets"]]


def ended(box: Sandbox) -> int:
    return len(client_of(box).get("/runners?all=1")["runners"])


def instance(box: Sandbox) -> str:
    try:
        found: str = client_of(box).get("/status")["instance"]
        return found
    except (AssertionError, Broken):
        return ""


HASH = sha256(b"a secret").hexdigest()
MUTATIONS = {
    OperationKind.CREATE_KEY: Mutation(
        "POST", "/keys", {"key_id": KEY, "hash": HASH, "scope": "API", "description": "x"}, effect=keys
    ),
    OperationKind.REVOKE_KEY: Mutation("DELETE", f"/keys/{KEY}", effect=keys),
    OperationKind.PUT_SECRET: Mutation("PUT", "/secrets/spare/SPARE", content=b"another", effect=secrets),
    OperationKind.UNSET_SECRET: Mutation("DELETE", "/secrets/spare/SPARE", effect=secrets),
    OperationKind.PRUNE: Mutation("POST", "/prune", {"runners": 0, "requests": 0}, effect=ended),
    OperationKind.SETTLE: Mutation("POST", "/settled"),
}
"""Those after which the same control plane goes on, in this order."""


def test_every_call_with_a_route_of_its_own_is_repeated_here() -> None:
    assert {*MUTATIONS, OperationKind.SHUT_DOWN, OperationKind.HAND_OVER} == set(CALLS.values())


def test_every_kind_of_operation_is_known_here() -> None:
    """What apply asks for is repeated by the fault cases and test_hosts.py, at each failpoint; what a person asks for, here."""
    by_apply = {
        OperationKind.CONFIGURE,
        OperationKind.ADD_HOST,
        OperationKind.REMOVE_HOST,
        OperationKind.FORGET_HOST,
        OperationKind.CLOSE_REGION,
        OperationKind.BUILD,
        OperationKind.DEPLOY,
        OperationKind.DELETE_APP,
        OperationKind.DELETE_BUILD,
        OperationKind.DELETE_SECRET,
    }
    by_people = {
        OperationKind.STOP_RUNNER,
        OperationKind.END_MACHINE,
        OperationKind.REAP,
        OperationKind.OVERRIDE,
        OperationKind.SET_REVISION,
        OperationKind.RESET,
    }
    assert by_apply | by_people == set(BODIES)


def test_a_repeated_call_has_its_first_outcome_and_no_second_effect(world: Sandbox) -> None:
    """Seen red with a control plane that acted again: a secret that was unset was "not there", a pruning found nothing."""
    others = (
        Mutation("POST", "/shutdown", {"stop_runners": True}),
        Mutation("POST", "/handover", {"python": "/bin/sh"}),
    )
    for call in (*MUTATIONS.values(), *others):
        with pytest.raises(Answered) as refused:
            call.send(world, "")
        assert refused.value.status == 400, call.path

    done: dict[OperationKind, tuple[Any, Any]] = {}
    for kind, call in MUTATIONS.items():
        before = call.effect(world)
        outcome, after = call.send(world, f"op-{kind}"), call.effect(world)
        assert kind is OperationKind.SETTLE or before != after, f"{kind} had no effect: the test proves nothing"
        assert call.send(world, f"op-{kind}") == outcome
        assert call.effect(world) == after
        with pytest.raises(Answered, match="is taken"):
            others[0].send(world, f"op-{kind}")
        done[kind] = outcome, call.effect
    assert any(p["count"] for p in done[OperationKind.PRUNE][0]["pruned"])
    check_audit(world)

    world.kill_control_plane()
    world.must("apply", "--auto-approve")
    last = {kind: call.effect(world) for kind, call in MUTATIONS.items()}
    for kind, call in MUTATIONS.items():
        assert call.send(world, f"op-{kind}") == done[kind][0], kind
    assert {kind: call.effect(world) for kind, call in MUTATIONS.items()} == last


def check_audit(box: Sandbox) -> None:
    """Each call stands in the audit log once, with the key that it came with, and no value of a secret does.

    Seen red with calls that were recorded without their key.
    """
    text = box.must("audit", "--json").out
    entries = json.loads(text)
    (admin,) = [k for k in client_of(box).get("/keys")["keys"] if k["scope"] == "ADMIN"]
    told = {e["operation"]: e for e in entries}

    assert len(told) == len(entries)
    for kind in MUTATIONS:
        entry = told[f"op-{kind}"]
        assert entry["by"] == {"key_id": admin["key_id"], "name": admin["description"]}, kind
        assert (entry["kind"], entry["outcome"]) == (kind.value, "done")
    kinds = {e["kind"] for e in entries}
    assert {"configure", "deploy", "put_bundle", "put_secret", "stop_runner"} <= kinds
    assert all(e["by"]["key_id"] == admin["key_id"] for e in entries)
    assert told[f"op-{OperationKind.PUT_SECRET}"]["resource"] == "secret.spare.SPARE"
    assert told[f"op-{OperationKind.REVOKE_KEY}"]["resource"] == KEY
    assert next(e for e in entries if e["kind"] == "stop_runner")["resource"] == "app.main.one"
    for value in ("another", "kept", HASH):
        assert f'"{value}' not in text
    of_key = json.loads(box.must("audit", KEY, "--json").out)
    assert [e["kind"] for e in of_key] == ["create_key", "revoke_key"]
    assert [e["kind"] for e in json.loads(box.must("audit", KEY, "--json", "--limit", "1").out)] == ["revoke_key"]
    assert json.loads(box.must("audit", "--json", "--since", "2999-01-01").out) == []
    shown = box.must("audit", KEY).out.splitlines()
    assert shown[0].split() == ["TIME", "WHO", "WHAT", "RESOURCE", "OUTCOME"]
    assert f"{admin['description']} ({admin['key_id']})" in shown[1]


ABOUT_ONE: JsonObject = {"address": "app.main.one", "endpoint": "acme/one"}


def test_an_override_that_is_repeated_does_not_undo_a_later_one(world: Sandbox) -> None:
    """Seen red with operations that were carried out each time they were asked for."""
    first = row_of_one(world)["revision"]
    world.version += 1
    world.write()
    world.must("apply", "--auto-approve")
    second = row_of_one(world)["revision"]
    steps: list[tuple[OperationKind, JsonObject, Callable[[Any], Any]]] = [
        (OperationKind.OVERRIDE, {"settings": {"max_concurrency": 8}}, lambda row: row["settings"]["max_concurrency"]),
        (OperationKind.SET_REVISION, {"revision": first}, lambda row: row["revision"]),
        (OperationKind.RESET, {}, lambda row: row["overrides"]),
    ]
    outcomes = {}
    for kind, more, effect in steps:
        before = effect(row_of_one(world))
        outcomes[kind] = client_of(world).perform(f"op-{kind}", kind, {**ABOUT_ONE, **more})
        assert effect(row_of_one(world)) != before, f"{kind} had no effect: the test proves nothing"
    reset = row_of_one(world)
    assert (reset["revision"], reset["overrides"]) == (second, {})
    world.kill_control_plane()
    world.must("apply", "--auto-approve")
    for kind, more, _ in steps:
        assert client_of(world).perform(f"op-{kind}", kind, {**ABOUT_ONE, **more}) == outcomes[kind]
        with pytest.raises(OperationFailed, match="is taken"):
            client_of(world).perform(f"op-{kind}", kind, {**ABOUT_ONE, **more, "endpoint": "acme/two"})

    assert row_of_one(world)["inputs"] == reset["inputs"]


def row_of_one(box: Sandbox) -> Any:
    return next(row for row in client_of(box).get("/world")["apps"] if row["endpoint"] == "acme/one")


def test_a_secret_that_is_unset_as_the_control_plane_dies_is_unset_when_asked_again(world: Sandbox) -> None:
    """Seen red with a removal that was recorded after it was made: asked again, the secret was "not set"."""
    world.kill_control_plane()
    world.must("apply", "--auto-approve", FALPLAN_FAILPOINTS="secret.remove.after_commit=kill")
    call = MUTATIONS[OperationKind.UNSET_SECRET]
    with pytest.raises(Exception, match="does not answer"):
        call.send(world, "op-of-unset")
    world.must("apply", "--auto-approve")

    assert call.send(world, "op-of-unset") == {"address": "secret.spare.SPARE"}
    with pytest.raises(Answered, match="No such secret"):
        call.send(world, "op-of-another")


def test_the_end_and_the_handing_over_of_a_control_plane_happen_once(world: Sandbox) -> None:
    """Seen red with calls that leave no record: the next control plane ended, too."""
    stop = Mutation("POST", "/shutdown", {"stop_runners": False})
    first = instance(world)
    assert stop.send(world, "op-of-the-end") == {"stopping": True}
    wait_until(lambda: not world.processes("serve"), 30)
    world.must("apply", "--auto-approve")
    second = instance(world)
    assert stop.send(world, "op-of-the-end") == {"stopping": True}

    over = Mutation("POST", "/handover", {"python": sys.executable, "project": "faults"})
    assert over.send(world, "op-of-handing-over") == {"handing_over": True}
    wait_until(lambda: instance(world) not in ("", second), 30)
    third = instance(world)
    assert over.send(world, "op-of-handing-over") == {"handing_over": True}
    world.must("call", "one", '{"n": 2}')  # both were obeyed by now, had they been obeyed again

    assert instance(world) == third
    assert len({first, second, third}) == 3
    world.check_converged()


def test_a_command_that_is_interrupted_says_that_it_may_be_done_all_the_same(box: Sandbox) -> None:
    """Seen red with the bare word "Interrupted"."""
    log = box.folder / "points.log"
    log.touch()
    hung = {"FALPLAN_FAILPOINTS": "admin.create_key.before_act=hang", "FALPLAN_FAILPOINTS_LOG": str(log)}
    box.must("apply", "--auto-approve", **hung)
    command = box.start("keys", "create")
    wait_until(lambda: "admin.create_key.before_act" in log.read_text(), 20)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=20)

    assert command.returncode == 130
    assert "may do it all the same: look before you ask again" in err
    box.kill_control_plane()
    box.must("apply", "--auto-approve")
    refused = box.run("keys", "revoke", "../key 1")
    assert (refused.code, refused.err) == (
        1,
        "Error: No such key\n../key 1: `falplan keys list` shows those that there are.\n",
    )
