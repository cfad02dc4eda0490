"""What every shell and provider has to do, as functions for their tests. Each raises AssertionError that says what is not so."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

from falplan.core.errors import FalplanError, Refused
from falplan.sdk.provider import Intent, Kind, Provider
from falplan.sdk.shell import Shell, TimedOut
from falplan.sdk.trees import TreeFile, tree_digest, write_archive
from falplan.sdk.values import Command

FILES = (TreeFile("app.py", b"print('hi')\n"), TreeFile("bin/run", b"#!/bin/sh\n", executable=True))


def check_shell(shell: Shell, folder: str, local: Path) -> None:
    """Check everything that `Shell` promises. `folder` is an empty one on the machine, `local` an empty one here."""
    _check_commands(shell)
    _check_files(shell, folder)
    _check_archives(shell, folder, local)
    shell.close()
    shell.close()


def check_provider(provider: Provider, intent: Intent) -> None:
    """Check everything that `Provider` promises. An elastic one may launch, and terminate, one machine."""
    before = provider.machines()
    _require([m.id for m in before] == sorted(m.id for m in before), "machines are sorted by id")
    _require(
        all(m.region == provider.region and m.provider == provider.name for m in before), "machines name their region"
    )
    _require(all(m.inventory.vcpu > 0 and m.inventory.ram > 0 for m in before), "machines have vCPU and RAM")
    _require([m.id for m in provider.machines()] == [m.id for m in before], "ids stay the same")
    if provider.kind is Kind.STATIC:
        _require(provider.offers() == [], "a static region offers nothing")
        _raises(Refused, lambda: provider.terminate([m.id for m in before]), "a static region terminates nothing")
        return
    offer = provider.offers()[0]
    machine = provider.launch(offer, intent)
    _require(provider.launch(offer, intent).id == machine.id, "one intent makes one machine")
    _require(machine.id in [m.id for m in provider.machines()], "what was launched is seen")
    provider.terminate([machine.id])
    provider.terminate([machine.id])
    _require(machine.id not in [m.id for m in provider.machines()], "what was terminated is not seen")


def _check_commands(shell: Shell) -> None:
    script = "import os,sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write(os.environ['X']); sys.exit(7)"
    output = shell.run(Command((shell.python, "-c", script), stdin=b"in \xc3\xa9 $HOME", env={"X": "a 'b'"}))
    _require(
        (output.code, output.stdout, output.stderr) == (7, b"in \xc3\xa9 $HOME", b"a 'b'"),
        "streams and status come back",
    )
    lines: list[str] = []
    shell.run(Command((shell.python, "-c", "print('one'); print('two')")), lines.append)
    _require(lines == ["one", "two"], "lines are handed over")
    loud = shell.run(Command((shell.python, "-c", "import sys; sys.stderr.write('e'*2000000); print('o'*2000000)")))
    _require(len(loud.stdout) == 2000001 and len(loud.stderr) == 2000000, "both streams are drained")
    sleep = Command((shell.python, "-c", "import time; time.sleep(60)"), timeout=0.5)
    _raises(TimedOut, lambda: shell.run(sleep), "a command that takes too long is ended")
    _raises(FileNotFoundError, lambda: shell.run(Command(("/no/such/program",))), "a missing program is told")


def _check_files(shell: Shell, folder: str) -> None:
    path = f"{folder}/deep/er/file"
    shell.write_file(path, b"0123456789")
    shell.write_file(path, b"abcdefghij", mode=0o640)
    _require(shell.read_file(path) == b"abcdefghij", "a file is replaced")
    _require(shell.read_file(path, 3, 4) == b"defg" and shell.read_file(path, 99) == b"", "parts of a file are read")
    entries = shell.list(f"{folder}/deep/er")
    _require([(e.name, e.is_folder, e.size) for e in entries] == [("file", False, 10)], "only whole files are listed")
    _require(shell.list(f"{folder}/none") == [], "no folder has no names")
    _raises(FileNotFoundError, lambda: shell.read_file(f"{folder}/none"), "a missing file is told")
    shell.remove(f"{folder}/deep")
    shell.remove(f"{folder}/deep")
    _require(shell.list(f"{folder}/deep") == [], "a folder is removed with all in it")


def _check_archives(shell: Shell, folder: str, local: Path) -> None:
    archive = io.BytesIO()
    write_archive(FILES, archive)
    source = local / "source"
    for file in FILES:
        path = source / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(0o755 if file.executable else 0o644)
    digest = tree_digest(source)
    target = f"{folder}/trees/{digest}"
    wrong = "0" * 64
    _raises(FalplanError, lambda: _put(shell, archive, f"{folder}/trees/{wrong}", wrong), "a wrong digest is refused")
    _require(shell.list(f"{folder}/trees") == [], "nothing is left of what was refused")
    _at_once(lambda: _put(shell, archive, target, digest), 4)
    _put(shell, archive, target, digest)
    _require(shell.read_file(f"{target}/app.py") == FILES[0].content, "an archive is unpacked")
    _require([e.name for e in shell.list(f"{folder}/trees")] == [digest], "once, and nothing beside it")
    _require(shell.put_tree(source, f"{folder}/copy") == digest, "a copied folder has the digest of its source")
    shell.remove(f"{folder}/trees")
    _require(shell.list(f"{folder}/trees") == [], "read-only folders can be removed")


def _put(shell: Shell, archive: io.BytesIO, target: str, digest: str) -> None:
    shell.put_archive(io.BytesIO(archive.getvalue()), target, digest)


def _at_once(work: Callable[[], None], number: int) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - it is raised in the caller's thread
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _require(true: bool, rule: str) -> None:
    if not true:
        raise AssertionError(f"not so: {rule}")


def _raises(kind: type[BaseException], work: Callable[[], object], rule: str) -> None:
    try:
        work()
    except kind:
        return
    raise AssertionError(f"not so: {rule} ({kind.__name__} was not raised)")
