"""Everybody who implements the protocols passes the same suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.sdk.launches import Bought, Intent, Journal, NoCapacity
from falplan.sdk.provider import Provider
from falplan.sdk.shell import Shell, TimedOut, Unreachable
from falplan.sdk.testing.conformance import check_elastic, check_provider, check_shell
from falplan.sdk.testing.fake import FakeProvider, a_machine
from falplan.sdk.testing.journals import MemoryJournal
from falplan.sdk.testing.sellers import MemorySeller
from falplan.sdk.values import Command
from falplan_providers.local import LocalShell, provider
from tests.runner.machine import is_alive, until


def test_the_local_shell_conforms(tmp_path: Path) -> None:
    """Seen red with a shell that kept what it had refused to unpack; and with one that never ended a command."""
    shell: Shell = LocalShell()
    (tmp_path / "machine").mkdir()
    check_shell(shell, str(tmp_path / "machine"), tmp_path)


def test_the_local_provider_conforms() -> None:
    check_provider(provider("here", {}))


@pytest.mark.parametrize("by_line", [False, True])
def test_a_command_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path, by_line: bool) -> None:
    """Seen red with a shell that killed the command's own process alone: its child lived on."""
    shell, child = LocalShell(), tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    command = Command((shell.python, "-c", code, str(child)), timeout=2)
    with pytest.raises(TimedOut):
        shell.run(command, (lambda line: None) if by_line else None)

    until(lambda: not is_alive(int(child.read_text())), 5)


def test_the_fake_provider_conforms() -> None:
    fake = FakeProvider()
    fake.add([a_machine("m2"), a_machine("m1")])
    check_provider(fake)


def test_the_fake_seller_conforms() -> None:
    seller = MemorySeller()
    check_elastic(seller, [], seller.ready)


class Forgetful(MemorySeller):
    """One that buys anew whenever it is asked."""

    def buy(self, kinds: Sequence[str], intent: Intent, journal: Journal) -> Bought:
        known = any(b.launch == intent.operation for _, b in self.made.values())
        return MemorySeller.buy(self, kinds, replace(intent, operation="another") if known else intent, journal)


class Careless(MemorySeller):
    """One that ends what is another's."""

    def end(self, owner: str, identities: Sequence[str]) -> None:
        for whose in ("mine", "theirs"):
            MemorySeller.end(self, whose, identities)


class Blind(MemorySeller):
    """One that notes what it did once it is done."""

    def buy(self, kinds: Sequence[str], intent: Intent, journal: Journal) -> Bought:
        noted = MemoryJournal()
        try:
            return MemorySeller.buy(self, kinds, intent, noted)
        finally:
            for attempt in noted.history[-1:]:
                journal.write(attempt)


@pytest.mark.parametrize(
    ("seller", "rule"),
    [
        (Forgetful(), "one intent buys one machine"),
        (Careless(), "nor ended"),
        (Blind(), "written down before it is made"),
    ],
)
def test_the_suite_finds_a_seller_that_breaks_a_promise(seller: MemorySeller, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_elastic(seller, [], seller.ready)


def test_what_cannot_be_reached_is_unknown_and_never_gone() -> None:
    """Seen red with a provider that shows no machines while it can't be reached."""
    fake: Provider = FakeProvider(unreachable=True)
    with pytest.raises(Unreachable):
        fake.machines()


def test_the_fake_seller_runs_out_of_capacity_but_repeats_what_it_sold() -> None:
    seller, journal = MemorySeller(capacity={"large": 1}), MemoryJournal()
    first = seller.buy(["large"], Intent("op-1", "lineage", "control-1"), journal)
    with pytest.raises(NoCapacity, match="no machine"):
        seller.buy(["large"], Intent("op-2", "lineage", "control-1"), journal)
    assert seller.buy(["large"], Intent("op-1", "lineage", "control-1"), journal) == first
    assert list(seller.made) == [first.identity]


def test_a_command_hides_its_secrets() -> None:
    text = repr(Command(("run",), stdin=b"s3cret", env={"TOKEN": "s3cret"}))
    assert "s3cret" not in text and "TOKEN" in text


def test_a_write_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    """Seen red with a shell that wrote in place: the new content stood there."""
    shell = LocalShell()
    shell.write_file(f"{tmp_path}/f", b"old")
    code = f"from falplan_providers.local import LocalShell\nLocalShell().write_file({str(tmp_path / 'f')!r}, b'new')"
    env = {"FALPLAN_FAILPOINTS": "shell.write.before_rename=kill", "PYTHONPATH": _paths()}
    assert shell.run(Command((shell.python, "-c", code), env=env)).code == -9
    assert shell.read_file(f"{tmp_path}/f") == b"old"
    assert [e.name for e in shell.list(str(tmp_path))] == ["f"]


def _paths() -> str:
    import os
    import sys

    return os.pathsep.join(p for p in sys.path if p)
