"""Hosts that were checked, as text and as JSON. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click

from falplan.core.errors import Severity
from falplan.core.hostfacts import Engine, Facts, containers, drivers, gpus_text
from falplan.core.plural import count
from falplan.core.preflight import Checked, Outcome, is_usable
from falplan.core.problems import Problem, size
from falplan.core.schemas import DRAFT
from falplan.core.spec.words import escaped
from falplan.core.values import Json, JsonObject
from falplan.views.tables import table

FORMAT = 1
NAMED = 12
"""Hosts that a line names; how many more there are stands behind it."""

COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def checked_text(hosts: Sequence[Checked], *, color: bool = False, inventory: bool = False) -> str:
    """Problems, alike ones of several hosts together, errors first; then the summary. `inventory`: what each host has, before that."""
    if not hosts:
        return "The spec names no hosts that could be checked: none of these regions has `provider: ssh`.\n"
    blocks = [inventory_table(hosts)] if inventory else []
    blocks += [_block(alike, color) for alike in _alike(hosts)]
    return "\n\n".join([*blocks, summary(hosts)]) + "\n"


def _alike(hosts: Iterable[Checked]) -> list[list[tuple[Checked, Problem]]]:
    """Problems of the same kind, with their hosts."""
    found: dict[tuple[bool, str, str], list[tuple[Checked, Problem]]] = {}
    for host in hosts:
        for problem in host.problems:
            key = (problem.severity is not Severity.ERROR, problem.code, problem.expected)
            found.setdefault(key, []).append((host, problem))
    return [found[key] for key in sorted(found)]


def _block(alike: Sequence[tuple[Checked, Problem]], color: bool) -> str:
    first = alike[0][1]
    label = f"{first.severity.value}[{first.code}]"
    head = f"{click.style(label, COLORS[first.severity], bold=True) if color else label}: {named(h for h, _ in alike)}"
    seen: dict[str, list[Checked]] = {}
    fixes: dict[str, list[Checked]] = {}
    for host, problem in alike:
        seen.setdefault(problem.seen, []).append(host)
        fixes.setdefault(problem.fix, []).append(host)
    lines = [*_lines("seen", seen), f"  expected: {escaped(first.expected)}", *_lines("fix", fixes)]
    return "\n".join([head, *lines])


def _lines(name: str, told: Mapping[str, list[Checked]]) -> list[str]:
    """One line for what all hosts have in common, and else one for each text with its hosts."""
    label = f"  {name + ':':<9} "
    if len(told) == 1:
        return [label + escaped(next(iter(told)))]
    lines = [f"{named(hosts)}: {escaped(text)}" for text, hosts in told.items()]
    return [label + lines[0], *(" " * len(label) + line for line in lines[1:])]


def named(hosts: Iterable[Checked]) -> str:
    """`dc1/a, dc1/b and 3 more`."""
    names = [escaped(host.short) for host in hosts]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


ENDINGS = {
    Outcome.FINE: ("is fine", "are fine"),
    Outcome.WARNINGS: ("has warnings", "have warnings"),
    Outcome.ERRORS: ("has errors", "have errors"),
    Outcome.UNREACHABLE: ("could not be looked at", "could not be looked at"),
}


def summary(hosts: Sequence[Checked]) -> str:
    """`48 hosts are fine; 2 have errors: dc1/a, dc1/b.`"""
    parts: list[str] = []
    for outcome, (one, many) in ENDINGS.items():
        those = [h for h in hosts if h.outcome is outcome]
        if those:
            subject = f"{count(len(those), 'host')} " if not parts else f"{len(those)} "
            names = "" if outcome is Outcome.FINE else f": {named(those)}"
            parts.append(f"{subject}{one if len(those) == 1 else many}{names}")
    return "; ".join(parts) + "."


# -- what hosts have ------------------------------------------------------------------------------------------------------

HEADERS = ("HOST", "CPU", "RAM", "DISK FREE", "GPUS", "DRIVER", "SYSTEM", "PYTHON", "CONTAINERS", "SYSTEMD", "CLOCK")


def inventory_table(hosts: Iterable[Checked]) -> str:
    """What each host has, a line each."""
    return table(HEADERS, [[escaped(cell) for cell in _row(h)] for h in hosts])


def _row(host: Checked) -> list[str]:
    facts = host.facts
    if facts is None:
        return [host.short, *("-" for _ in HEADERS[1:])]
    return [
        host.short,
        f"{facts.vcpu:g}",
        size(facts.ram),
        size(facts.folder.free),
        gpus_text(facts) or "-",
        ", ".join(drivers(facts)) or "-",
        f"{facts.distribution or facts.os} {facts.arch}",
        facts.python,
        ", ".join(containers(facts)) or "-",
        facts.systemd.version if facts.systemd.first else "-",
        f"{round(facts.offset, 1) + 0.0:+.1f} s",
    ]


# -- JSON -----------------------------------------------------------------------------------------------------------------


def checked_json(hosts: Sequence[Checked]) -> JsonObject:
    """As `schemas/host-check.json` describes it."""
    outcomes: JsonObject = {o.value: sum(h.outcome is o for h in hosts) for o in Outcome}
    return {
        "format_version": FORMAT,
        "ok": is_usable(hosts),
        "summary": {"hosts": len(hosts), **outcomes},
        "hosts": [_host(h) for h in hosts],
    }


def _host(host: Checked) -> JsonObject:
    return {
        "address": host.address,
        "region": host.region,
        "name": host.name,
        "where": host.where,
        "outcome": host.outcome.value,
        "findings": [_finding(p) for p in host.problems],
        "inventory": inventory_json(host.facts) if host.facts else None,
    }


def _finding(problem: Problem) -> Json:
    return {
        "severity": problem.severity.value,
        "code": problem.code,
        "seen": problem.seen,
        "expected": problem.expected,
        "fix": problem.fix,
    }


def inventory_json(facts: Facts) -> JsonObject:
    """What a host has: sizes in bytes, the clock's offset in seconds."""
    return {
        "hostname": facts.hostname,
        "vcpu": facts.vcpu,
        "ram": facts.ram,
        "memory_free": facts.memory_free,
        "disk": {
            "folder": facts.folder.path,
            "free": facts.folder.free,
            "total": facts.folder.total,
            "inodes_free": facts.folder.inodes_free if facts.folder.inodes else None,
        },
        "gpus": [
            {"index": g.index, "uuid": g.uuid, "name": g.name, "vram": g.vram, "driver": g.driver}
            for g in (facts.smi.gpus if facts.smi else ())
        ],
        "system": {
            "os": facts.os,
            "arch": facts.arch,
            "distribution": facts.distribution,
            "kernel": facts.kernel,
            "libc": f"{facts.libc} {facts.libc_version}".strip(),
            "cgroup": facts.cgroup,
            "selinux": facts.selinux,
        },
        "python": facts.python,
        "pythons": list(facts.pythons),
        "docker": _engine(facts.docker),
        "podman": _engine(facts.podman),
        "systemd": facts.systemd.version if facts.systemd.first else None,
        "clock_offset": round(facts.offset, 3),
        "user": facts.user,
        "open_files": list(facts.open_files),
    }


def _engine(engine: Engine | None) -> Json:
    return None if engine is None else {"version": engine.version, "usable": engine.usable}


def check_schema() -> JsonObject:
    """Of `falplan host check --json`. Readers must accept keys that are not named here."""
    text: JsonObject = {"type": "string"}
    number: JsonObject = {"type": "integer", "minimum": 0}
    finding = _object(
        {
            "severity": {"enum": [s.value for s in Severity]},
            "code": {"type": "string", "pattern": "^[a-z]+(-[a-z]+)*$", "description": "Stays the same over releases."},
            "seen": text,
            "expected": text,
            "fix": {"type": "string", "description": "A command, or a setting of the spec or of the host."},
        }
    )
    gpu = _object({"index": number, "uuid": text, "name": text, "vram": number, "driver": text})
    inventory = _object(
        {
            "hostname": text,
            "vcpu": {"type": "number"},
            "ram": number,
            "memory_free": {"type": ["integer", "null"]},
            "disk": _object(
                {"folder": text, "free": number, "total": number, "inodes_free": {"type": ["integer", "null"]}}
            ),
            "gpus": {"type": "array", "items": gpu},
            "system": {"type": "object"},
            "python": text,
            "pythons": {"type": "array", "items": text},
            "docker": {"type": ["object", "null"]},
            "podman": {"type": ["object", "null"]},
            "systemd": {"type": ["string", "null"]},
            "clock_offset": {
                "type": "number",
                "description": "Seconds that the host's clock is ahead of this machine's.",
            },
            "user": text,
            "open_files": {"type": "array", "items": {"type": "integer"}},
        }
    )
    host = _object(
        {
            "address": text,
            "region": text,
            "name": text,
            "where": text,
            "outcome": {"enum": [o.value for o in Outcome]},
            "findings": {"type": "array", "items": finding},
            "inventory": {"anyOf": [inventory, {"type": "null"}]},
        }
    )
    body = _object(
        {
            "format_version": {"const": FORMAT},
            "ok": {"type": "boolean", "description": "No host has an error: the command's exit status is 0."},
            "summary": _object({"hosts": number, **{o.value: number for o in Outcome}}),
            "hosts": {"type": "array", "items": host},
        }
    )
    return {
        "$schema": DRAFT,
        "$id": f"urn:falplan:schema:host-check:{FORMAT}",
        "title": "falplan host-check",
        "description": "Hosts as `falplan host check --json` prints them: what is wrong with each, and what it has.",
        **body,
    }


def _object(required: Mapping[str, Json]) -> JsonObject:
    return {"type": "object", "properties": dict(required), "required": list(required)}
