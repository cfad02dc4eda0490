"""What is wrong with a broken state, and what can be put in its place. Decides; reads and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from falplan import __version__
from falplan.core.state import (
    FORMAT_VERSION,
    Entry,
    Recorded,
    State,
    StateUnreadable,
    parse_state,
    recorded_from_json,
    replay,
)
from falplan.core.state_edits import difference
from falplan.core.state_integrity import kind_of, ring_of
from falplan.core.values import JsonObject


@dataclass(frozen=True, slots=True)
class Log:
    """A journal as it was found: the snapshot it was begun for, its whole entries, and the numbers of those that are none."""

    lineage: str
    serial: int
    entries: tuple[Entry, ...] = ()
    damaged: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Remains:
    """Everything that stands where the state is kept. `text` is the snapshot without its seal.

    `locked_away` is why the snapshot can't be opened, and nothing here can help; `unreadable` why it can't, and something may.
    `lineage` is what the snapshot says of itself, believed for looking things up alone.
    """

    text: str | None
    journal: Log | None = None
    locked_away: str = ""
    unreadable: str = ""
    missing: str = ""
    lineage: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """An earlier snapshot; `state` is None where it is damaged, too."""

    name: str
    state: State | None
    because: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, a sentence each, and what would be put in place.

    `mended` is None for a sound state, and where nothing can be mended: `advice` then says what to do. `source` says what it is made of.
    """

    findings: tuple[str, ...] = ()
    mended: State | None = None
    source: str = ""
    advice: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked to make it from: a backup's name, or the snapshot as it stands although its checksum does not match."""

    backup: str = ""
    as_it_stands: bool = False


def diagnose(remains: Remains, backups: Sequence[Backup], *, project: str, seen: int, wish: Wish = Wish()) -> Diagnosis:
    """Look at everything. `seen` is the highest serial of the lineage that is known of, 0 if none is."""
    if remains.locked_away:
        advice = "Nothing can be told about it, and nothing needs to be repaired, before its key is here."
        return Diagnosis((remains.locked_away,), advice=advice)
    if remains.text is None and not remains.unreadable and remains.journal is None and not remains.missing:
        return Diagnosis(advice="Nothing was ever applied here: there is no state.")
    found = _read(remains)
    if found.hopeless:
        return Diagnosis(tuple(found.findings), advice=found.hopeless)
    if found.state is not None and found.state.project != project:
        finding = f'It is the state of project "{found.state.project}"; the spec says "{project}".'
        return Diagnosis(
            (finding,), advice="It is no damage: write that project in the spec, or another place under `state:`."
        )
    findings = [*found.findings, *_journal_findings(remains.journal, found.state)]
    if found.state is not None:
        _sound(replay(found.state, _entries_of(remains.journal, found.state)), findings)
    if found.state is not None and found.state.serial < seen:
        findings.append(
            f"Its serial is {found.state.serial}, and this machine has seen {seen}: it is older than it was."
        )
    if not findings and not wish.backup:
        return Diagnosis()
    return _mend(found, remains, backups, findings, seen, wish, project)


@dataclass(slots=True)
class _Reading:
    """What could be read of a snapshot. `trusted`: its checksum matches."""

    state: State | None = None
    trusted: bool = False
    findings: list[str] = field(default_factory=list)
    hopeless: str = ""


def _read(remains: Remains) -> _Reading:
    if remains.unreadable:
        return _Reading(findings=[remains.unreadable])
    if remains.text is None:
        return _Reading(findings=[f"The snapshot is missing: {remains.missing or 'only its journal is there'}."])
    if not remains.text.strip():
        return _Reading(findings=["The snapshot is empty. An empty file is not an empty state."])
    try:
        body = json.loads(remains.text)
    except (ValueError, RecursionError) as exc:
        return _Reading(findings=[f"The snapshot is torn or damaged: {exc}."])
    if not isinstance(body, dict):
        return _Reading(findings=["The snapshot does not hold an object."])
    version = body.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        wrote = body.get("falplan_version")
        hopeless = f"It is not damaged: falplan {wrote} wrote it, and falplan {__version__} is older. Install that one."
        return _Reading(
            findings=[f"The snapshot has format {version}; this falplan reads up to {FORMAT_VERSION}."],
            hopeless=hopeless,
        )
    reading = _Reading()
    try:
        reading.state = parse_state(remains.text, "the snapshot")
        reading.trusted = True
    except StateUnreadable as exc:
        reading.trusted = not _says_checksum(exc)
        if not reading.trusted:
            reading.findings.append(
                "Its checksum does not match: it was edited by hand, or a disk or a transfer changed it."
            )
        reading.state = _salvaged(cast("JsonObject", body), reading.findings)
    if reading.state is not None and not (reading.state.lineage and reading.state.project):
        reading.findings.append("It names no project or no lineage: nobody can tell whose state it is.")
        reading.state = None
    if reading.state is not None:
        reading.state = _sound(reading.state, reading.findings)
    return reading


def _says_checksum(error: StateUnreadable) -> bool:
    return "checksum" in error.detail or "stands twice in one object" in error.detail


def _salvaged(body: JsonObject, findings: list[str]) -> State | None:
    """Whatever has the shape of a state, resource by resource; of two of one address, the higher generation."""
    try:
        state = State(str(body["project"]), str(body["lineage"]), int(cast("int", body["serial"])))
        bodies = cast("list[JsonObject]", body["resources"])
        found: dict[str, Recorded] = {}
        for number, one in enumerate(bodies, 1):
            _salvage_one(one, number, found, findings)
        retired = body.get("retired", {})
        if not isinstance(retired, dict):
            findings.append("`retired` is no object, and is left out.")
            retired = {}
        kept = {str(a): int(g) for a, g in retired.items() if isinstance(g, int)}
        return replace(state, resources=found, retired=kept)
    except (KeyError, TypeError, ValueError):
        findings.append("It has not the shape of a state: project, lineage, serial or resources are missing.")
        return None


def _salvage_one(body: JsonObject, number: int, found: dict[str, Recorded], findings: list[str]) -> None:
    try:
        recorded = recorded_from_json(body)
    except (KeyError, TypeError, ValueError, AttributeError):
        findings.append(f"Resource {number} can't be read, and is left out.")
        return
    other = found.get(recorded.address)
    if other is not None:
        kept = max(other, recorded, key=lambda r: r.generation)
        findings.append(f"{recorded.address} stands twice; generation {kept.generation} is kept.")
        recorded = kept
    found[recorded.address] = recorded


def _sound(state: State, findings: list[str]) -> State:
    """The state without what contradicts itself: the rules are those of `state_integrity`."""
    retired = dict(state.retired)
    for address in sorted(retired.keys() & state.resources.keys()):
        findings.append(f"{address} is both there and retired; it counts as there.")
        del retired[address]
    for address in sorted(a for a, g in retired.items() if g < 0):
        findings.append(f"{address} is retired with a negative generation, and counts as retired with 0.")
        retired[address] = 0
    resources = {}
    for address, recorded in sorted(state.resources.items()):
        resources[address] = _sound_resource(recorded, state, findings)
    while ring := ring_of(resources):
        findings.append(f"{' depends on '.join(ring)}; that of {ring[0]} is dropped.")
        kept = tuple(d for d in resources[ring[0]].dependencies if d != ring[1])
        resources[ring[0]] = replace(resources[ring[0]], dependencies=kept)
    serial = max(0, state.serial)
    if serial != state.serial:
        findings.append(f"Its serial is {state.serial}, and counts as 0.")
    return replace(state, serial=serial, resources=resources, retired=retired)


def _sound_resource(recorded: Recorded, state: State, findings: list[str]) -> Recorded:
    dangling = [d for d in recorded.dependencies if d not in state.resources and d not in state.retired]
    if dangling:
        findings.append(f"{recorded.address} depends on {', '.join(dangling)}, which is not there; that is dropped.")
        kept = tuple(d for d in recorded.dependencies if d not in dangling)
        recorded = replace(recorded, dependencies=kept)
    if kind_of(recorded.address) != recorded.type:
        findings.append(
            f"{recorded.address} is recorded as {recorded.type or 'nothing'}, and counts as what its address names."
        )
        recorded = replace(recorded, type=kind_of(recorded.address))
    if recorded.generation < 0:
        findings.append(f"{recorded.address} has generation {recorded.generation}, and counts as 0.")
        recorded = replace(recorded, generation=0)
    if recorded.intent and recorded.intent.generation <= recorded.generation:
        findings.append(f"{recorded.address} has an open operation that ended already; it is dropped.")
        recorded = replace(recorded, intent=None)
    return recorded


def _journal_findings(journal: Log | None, state: State | None) -> Iterator[str]:
    if journal is None:
        return
    if journal.damaged:
        noun = "entry" if len(journal.damaged) == 1 else "entries"
        numbers = ", ".join(map(str, journal.damaged))
        yield f"The journal is damaged at {noun} {numbers}; {len(journal.entries)} whole entries count."
    if state is not None and journal.lineage != state.lineage:
        yield f"The journal belongs to another lineage, {journal.lineage}; it counts for nothing here."
    elif state is not None and journal.serial > state.serial:
        yield f"The journal was begun for serial {journal.serial}, and the snapshot has {state.serial}: a newer snapshot is missing."


def _mend(
    found: _Reading,
    remains: Remains,
    backups: Sequence[Backup],
    findings: list[str],
    seen: int,
    wish: Wish,
    project: str,
) -> Diagnosis:
    good = [
        b for b in backups if b.state is not None and b.state.project == project and _related(b.state, found, remains)
    ]
    findings += [f"The backup {b.name} is no good: {b.because}" for b in backups if b.state is None]
    base, source, advice = _base(found, good, wish)
    if base is None:
        return Diagnosis(tuple(findings), advice=advice)
    entries = [] if wish.backup else _entries_of(remains.journal, found.state or base)
    if entries:
        source += f", and {len(entries)} entr{'ies' if len(entries) > 1 else 'y'} of the journal"
    state = _sound(replay(base, [e for e in entries if e.generation >= base.generation(e.address)]), [])
    journal = remains.journal.serial if remains.journal and remains.journal.lineage == base.lineage else 0
    state = replace(state, serial=max(state.serial, seen, journal, found.state.serial if found.state else 0))
    before = found.state or base
    return Diagnosis(tuple(findings), state, source, lines=tuple(difference(before, state).lines()))


def _entries_of(journal: Log | None, state: State) -> list[Entry]:
    """What a journal tells beyond a state: nothing if it is of another lineage, or was folded into the state already."""
    if journal is None or journal.lineage != state.lineage or journal.serial < state.serial:
        return []
    return list(journal.entries)


def _related(state: State, found: _Reading, remains: Remains) -> bool:
    """Whether a backup is of the lineage that stands here, as far as that can be told."""
    if found.state is not None:
        return state.lineage == found.state.lineage
    return remains.journal is None or state.lineage == remains.journal.lineage


def _base(found: _Reading, good: Sequence[Backup], wish: Wish) -> tuple[State | None, str, str]:
    """What is built on, what it is, and what to do if there is nothing."""
    if wish.backup:
        chosen = next((b for b in good if b.name == wish.backup), None)
        if chosen is None:
            return (
                None,
                "",
                f"There is no good backup {wish.backup} of this lineage. `falplan state backup list` prints those there are.",
            )
        return chosen.state, f"the backup {chosen.name}", ""
    if found.state is not None and (found.trusted or wish.as_it_stands):
        return found.state, "the snapshot as it stands, less what contradicts itself", ""
    if good:
        newest = max(good, key=lambda b: cast("State", b.state).serial)
        return newest.state, f"the newest good backup, {newest.name}", ""
    if found.state is not None:
        return found.state, "the snapshot as it stands, because there is no good backup: look at its plan closely", ""
    return (
        None,
        "",
        "There is no good backup. Bring the file back from your own backup, or from another machine that has it.",
    )
