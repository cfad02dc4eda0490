"""A project whose state is encrypted, through its life: nothing of state or passphrase is to be found anywhere."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.faults.sandbox import Sandbox

pytestmark = pytest.mark.faults

PASSPHRASE = "canary battery staple 51c9"


def use_passphrase(box: Sandbox, previous: str = "") -> None:
    box.write()
    spec = box.project / "falplan.yaml"
    with spec.open("a") as file:
        file.write(f"\nstate: {{encryption: {{key: {{passphrase: {{env: WORDS}}}}{previous}}}}}\n")


def holders(folder: Path, *planted: str) -> list[Path]:
    """Files in which one of the planted values stands."""
    values = [p.encode() for p in planted]
    return [p for p in folder.rglob("*") if p.is_file() and any(v in p.read_bytes() for v in values)]


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_project_lives_on_an_encrypted_state(box: Sandbox) -> None:
    """Seen red with a control plane that was started with the whole environment: the passphrase was in it."""
    box.least = 1
    use_passphrase(box)
    words = {"WORDS": PASSPHRASE}
    shown = [box.must("apply", "--auto-approve", **words)]
    before = set(box.runner_marks())
    kept = (box.project / ".falplan" / "state.json").read_bytes()
    without = box.run("plan")
    shown += [without, box.must("taint", "app.main.one", **words), box.must("plan", **words)]
    box.check_converged(**words)
    after = set(box.runner_marks())
    leaked = [p for p in box.processes("any") if "WORDS" in _environ(p)]

    assert b"app.main.one" not in kept
    assert (without.code, "WORDS is not set" in without.err) == (6, True)
    assert "falplan taint" in shown[-1].out
    assert len(after - before) == 1  # the tainted app's runner is another one, the other's is the same
    assert leaked == []
    box.must("destroy", "--auto-approve", **words)
    box.check_nothing_left()
    assert holders(box.folder, PASSPHRASE) == []
    assert not [r for r in shown if PASSPHRASE in r.out + r.err]
    assert b"app.main.one" not in (box.project / ".falplan" / "state.json").read_bytes()
