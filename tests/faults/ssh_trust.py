"""Host keys through the command line: a host, or what stands before it, in every situation of `tests.lab.keys`."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from falplan.core.errors import ExitCode
from tests.lab.conftest_loopback import free_address
from tests.lab.keys import SITUATIONS, Situation, check_refused, packets_to, prepared
from tests.lab.loopback import LoopbackHost, make_key

from .sandbox import Broken, Sandbox

SOME = 2
"""Situations that a bounded run goes through; which ones, its seed decides."""
CODES = (ExitCode.REFUSED, ExitCode.SPEC_INVALID)


def parts(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    for situation in SITUATIONS if full else rng.sample(SITUATIONS, SOME):
        yield f"host keys: {situation.name}", partial(through_commands, situation=situation)


def through_commands(rng: random.Random, situation: Situation) -> None:
    """plan, drift and apply: refused before anything is sent, or not at all."""
    box = Sandbox()
    hosts: list[LoopbackHost] = []
    try:
        host, bastion, options, known = prepared(situation, partial(_make, box.folder, hosts))
        home = {"HOME": str(_a_home(box, known))}
        _write(box, options)
        ran = {name: box.run(*words, **home) for name, words in COMMANDS.items()}
        told = "\n".join(f"{name}: {r.code}\n{r.out}\n{r.err}" for name, r in ran.items())
        if situation.says:
            check_refused(situation, ran["apply"].err, host, bastion)
            if ran["apply"].code not in CODES or "Traceback" in told or "a bug" in told:
                raise Broken(told)
        elif any(r.code for r in ran.values()) or 50 not in packets_to(host):
            raise Broken(told)
        if not situation.says:
            box.must("destroy", "--auto-approve", **home)
    finally:
        for one in hosts:
            one.end()
        box.clean()


COMMANDS = {"plan": ("plan",), "apply": ("apply", "--auto-approve"), "drift": ("drift",)}


def _make(folder: Path, made: list[LoopbackHost], name: str, kinds: Any = ("ed25519",), *, start: bool = True, more: str = "") -> LoopbackHost:  # fmt: skip
    key = folder / "client"
    if not key.exists():
        make_key(key)
    address, port = free_address()
    host = LoopbackHost(folder / name, address, port, key, more=more).make(kinds)
    made.append(host)
    return host.start() if start else host


def _a_home(box: Sandbox, known: str) -> Path:
    """A person's: with what known_hosts says, and the key that all hosts take."""
    home = box.folder / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/known_hosts").write_text(known + "\n")
    shutil.copy(box.folder / "client", home / ".ssh/id_ed25519")
    return home


def _write(box: Sandbox, options: dict[str, Any]) -> None:
    """A project that has the host, and nothing that runs there."""
    region = {"provider": "ssh", "user": "root", "hosts": {"a": options}}
    spec = {
        "version": 1,
        "project": "trust",
        "owner": "acme",
        "gateway": {"ephemeral": True},
        "regions": {"lab": region},
    }
    (box.project / "falplan.yaml").write_text(json.dumps(spec))
