"""What every shell and provider has to do, as functions for their tests. Each raises AssertionError that says what is not so."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.core.spec.resolved import MachineType
from falplan.sdk.launches import Bought, Elastic, Intent, NoCapacity, Stage, Verdict
from falplan.sdk.provider import Provider
from falplan.sdk.resources import Declared, Failed, Found, Mark, Resources, Standing
from falplan.sdk.shell import Shell, TimedOut
from falplan.sdk.testing.journals import MemoryJournal
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


def check_provider(provider: Provider) -> None:
    """Check everything that `Provider` promises."""
    before = provider.machines()
    _require([m.id for m in before] == sorted(m.id for m in before), "machines are sorted by id")
    _require(
        all(m.region == provider.region and m.provider == provider.name for m in before), "machines name their region"
    )
    _require(all(m.inventory.vcpu > 0 and m.inventory.ram > 0 for m in before), "machines have vCPU and RAM")
    _require([m.id for m in provider.machines()] == [m.id for m in before], "ids stay the same")


def check_elastic(seller: Elastic, types: Iterable[MachineType], settle: Callable[[], object]) -> None:
    """Check everything that `Elastic` promises. It buys, and ends, two machines of the first kind for the owner `mine`.

    Nothing of `mine` and `theirs` is there. `settle` lets as much time pass as a machine takes to come up, or to end.
    """
    offers = seller.offers(types)
    _require(bool(offers), "something is for sale")
    _require(len({o.name for o in offers}) == len(offers), "no two kinds have one name")
    _require(seller.terms().most > 0, "there is a limit")
    kinds = [o.name for o in offers]
    _require(not list(seller.look("mine")), "nothing is there at first")
    first, journal = _check_bought_once(seller, kinds, settle)
    _check_bought_apart(seller, kinds, first, journal, settle)
    _check_ended(seller, kinds, first, journal, settle)


def _check_bought_once(
    seller: Elastic, kinds: Sequence[str], settle: Callable[[], object]
) -> tuple[Bought, MemoryJournal]:
    intent, journal = Intent("lab/one", "mine", "plane-1"), MemoryJournal()
    _raises(NoCapacity, lambda: seller.buy((), intent, journal), "without kinds nothing is bought")
    _require(not journal.history, "nor is anything asked for")
    first = seller.buy(kinds, intent, journal)
    settle()
    tried = journal.attempts(intent.operation)
    _require(bool(tried), "attempts are written down under the intent's id")
    last = tried[-1]
    noted = [a for a in journal.history if a.number == last.number]
    _require(noted[0].verdict is Verdict.UNKNOWN, "an attempt is written down before it is made")
    _require((last.verdict, last.identity) == (Verdict.MADE, first.identity), "and so is what became of it")
    for again in (kinds, kinds[::-1], ()):
        _require(seller.buy(again, intent, journal).identity == first.identity, "one intent buys one machine")
    forgetful = MemoryJournal()
    forgetful.write(noted[0])
    found = seller.buy(kinds, intent, forgetful)
    _require(found.identity == first.identity, "also if nobody noted what became of the attempt")
    (seen,) = seller.look("mine")
    _require((seen.identity, seen.launch, seen.control_plane) == (first.identity, "lab/one", "plane-1"), "it is marked")
    _require(seen.stage is Stage.UP, "it comes up")
    way = seller.entry(seen)
    _require(way is not None and bool(way.provider and way.options), "and there is a way onto it")
    _require(way == seller.entry(seen), "which stays the same")
    return seen, journal


def _check_bought_apart(
    seller: Elastic, kinds: Sequence[str], first: Bought, journal: MemoryJournal, settle: Callable[[], object]
) -> None:
    second = seller.buy(kinds[:1], Intent("lab/two", "mine", "plane-1"), journal)
    settle()
    _require(second.identity != first.identity, "another intent buys another machine")
    both = sorted(b.identity for b in seller.look("mine"))
    _require(both == sorted([first.identity, second.identity]), "both are seen")
    _require(not list(seller.look("theirs")), "what another owner bought is never shown")
    seller.end("theirs", both)
    settle()
    _require(all(b.stage is Stage.UP for b in seller.look("mine")), "nor ended")


def _check_ended(
    seller: Elastic, kinds: Sequence[str], first: Bought, journal: MemoryJournal, settle: Callable[[], object]
) -> None:
    for _ in range(2):
        seller.end("mine", [first.identity])
    settle()
    stages = {b.identity: b.stage for b in seller.look("mine")}
    _require(stages.pop(first.identity, Stage.GONE) is Stage.GONE, "what is ended ends")
    _require(list(stages.values()) == [Stage.UP], "and nothing else")
    intent = Intent("lab/one", "mine", "plane-1")
    _raises(Failed, lambda: seller.buy(kinds, intent, journal), "an intent whose machine has ended buys no other one")
    seller.end("mine", list(stages))
    settle()
    _require(all(b.stage is Stage.GONE for b in seller.look("mine")), "nothing is left")


def check_resources(
    resources: Resources, wanted: Declared, changed: Declared, *, stop: Callable[[Found], object] | None = None
) -> None:
    """Check everything that `Resources` promises. Nothing of the owners `mine` and `theirs` is there, nor will be afterwards.

    `wanted` may be made several times at once; `changed` is the same with other inputs, which can be had in place. `stop` stops one
    that is there, where that can happen to it.
    """
    _check_declared(resources.declared())
    mark = Mark("mine", f"{wanted.kind.value}.conformance.one", "operation-1")
    _require(not _looked(resources, "mine"), "nothing is there at first")
    first = _check_made_once(resources, wanted, mark)
    _check_beside(resources, wanted, mark, first)
    _check_changed(resources, changed, mark, first, stop)
    _check_strangers(resources, wanted, mark, first)
    _check_removed(resources, wanted, mark, first)
    missing = replace(wanted, name=f"{wanted.name}-that-nobody-made", managed=False)
    _raises(Failed, lambda: resources.read(missing, say=_silent), "what is not there can't be read")


def _silent(line: str) -> None:
    """Nobody wants to see progress."""


def _looked(resources: Resources, owner: str) -> list[str]:
    return [found.identity for found in resources.look(owner, {})]


def _check_declared(declared: Iterable[Declared]) -> None:
    names = [(d.kind, d.name) for d in declared]
    _require(len(names) == len(set(names)), "no two resources of a kind have one name")
    needed = {n for d in declared for n in d.depends_on}
    _require(needed <= set(names), "what is depended on is declared, too")


def _check_made_once(resources: Resources, wanted: Declared, mark: Mark) -> Found:
    first = resources.create(wanted, mark, besides="", say=_silent)
    _require(bool(first.identity), "what is made has an identity")
    _require((first.address, first.operation) == (mark.address, mark.operation), "what is made is marked")
    _require(first.standing is Standing.UP, "what is made is up")
    _require(all(wanted.inputs.get(k) == v for k, v in first.inputs.items()), "what is made is as it was wanted")
    _require(list(resources.look("mine", {})) == [first], "what was made is seen as it was answered")
    again = resources.create(wanted, mark, besides="", say=_silent)
    _require(again.identity == first.identity, "the same operation makes one thing")
    later = resources.create(wanted, replace(mark, operation="operation-2"), besides="", say=_silent)
    _require(later.identity == first.identity, "what an operation before made is taken by the next one")
    _require(later.operation == "operation-2", "and carries the mark of the one that took it")
    _require(_looked(resources, "mine") == [first.identity], "once, and nothing beside it")
    return later


def _check_beside(resources: Resources, wanted: Declared, mark: Mark, first: Found) -> None:
    beside = replace(mark, operation="operation-3")
    second = resources.create(wanted, beside, besides=first.identity, say=_silent)
    _require(second.identity != first.identity, "what a replacement stands beside is not taken for it")
    again = resources.create(wanted, beside, besides=first.identity, say=_silent)
    _require(again.identity == second.identity, "a replacement is made once")
    both = sorted([first.identity, second.identity])
    _require(sorted(_looked(resources, "mine")) == both, "both are seen while one replaces the other")
    _require(resources.remains(beside, second.identity), "what is there remains")
    for _ in range(2):
        resources.delete(beside, second.identity, say=_silent)
        _require(not resources.remains(beside, second.identity), "what was removed does not, once `delete` is done")
    _require(_looked(resources, "mine") == [first.identity], "what has an identity is removed alone, and only once")
    _require(resources.remains(beside, ""), "without an identity, anything of an address remains")


def _check_changed(
    resources: Resources, changed: Declared, mark: Mark, first: Found, stop: Callable[[Found], object] | None
) -> None:
    update = replace(mark, operation="operation-4")
    for _ in range(2):
        after = resources.update(changed, update, first.identity, say=_silent)
        _require(after.identity == first.identity, "an update keeps the identity")
        _require(all(changed.inputs.get(k) == v for k, v in after.inputs.items()), "an update brings what is wanted")
    _require(after.version != first.version, "what was changed has another version")
    _require(after.operation == "operation-4", "an update leaves its mark")
    if stop is not None:
        stop(after)
        (seen,) = resources.look("mine", {})
        _require(seen.standing is Standing.STOPPED and bool(seen.because), "what is stopped is seen, with the reason")
        _require(seen.version != after.version, "what was stopped has another version")
        up = resources.update(changed, update, first.identity, say=_silent)
        _require(up.standing is Standing.UP, "an update brings up what is stopped")
    gone = f"{first.identity}-gone"
    _raises(Failed, lambda: resources.update(changed, update, gone, say=_silent), "what is gone can't be changed")


def _check_strangers(resources: Resources, wanted: Declared, mark: Mark, first: Found) -> None:
    theirs = replace(mark, owner="theirs", operation="operation-5")
    other = resources.create(wanted, theirs, besides="", say=_silent)
    _require(other.identity != first.identity, "what another owner made is never taken")
    _require(_looked(resources, "mine") == [first.identity], "what another owner made is never shown")
    _require(_looked(resources, "theirs") == [other.identity], "but to that owner it is")
    known = {mark.address: other}
    shown = [f.identity for f in resources.look("mine", known)]
    _require(shown == [first.identity], "not even where it is taken for known")
    _raises(Failed, lambda: resources.delete(mark, other.identity, say=_silent), "nor is it removed")
    _raises(Failed, lambda: resources.update(wanted, mark, other.identity, say=_silent), "nor changed")
    resources.delete(mark, "", say=_silent)
    _require(_looked(resources, "mine") == [], "without an identity, all of an address are removed")
    _require(not resources.remains(mark, ""), "so that nothing remains, whatever another owner has")
    _require(_looked(resources, "theirs") == [other.identity], "but those of another owner are not")
    resources.delete(theirs, other.identity, say=_silent)


def _check_removed(resources: Resources, wanted: Declared, mark: Mark, first: Found) -> None:
    resources.delete(mark, "", say=_silent)
    resources.delete(mark, first.identity, say=_silent)
    new = resources.create(wanted, replace(mark, operation="operation-6"), besides="", say=_silent)
    _require(new.identity != first.identity, "an identity is never used again")
    marks = [replace(mark, address=f"{mark.address}-{n}", operation=f"operation-7-{n}") for n in range(8)]
    names = iter(marks)
    _at_once(lambda: _make_and_make_again(resources, wanted, next(names)), len(marks))
    _require(len(_looked(resources, "mine")) == 1 + len(marks), "several are made at once")
    for each in (mark, *marks):
        resources.delete(each, "", say=_silent)
    _require(_looked(resources, "mine") == [], "nothing is left of what was removed")


def _make_and_make_again(resources: Resources, wanted: Declared, mark: Mark) -> None:
    for _ in range(2):
        resources.create(wanted, mark, besides="", say=_silent)


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
