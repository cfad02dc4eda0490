"""Saved plans on the command line: how long they hold good, what is said of them, and what stands against them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.plan_output import show_plan
from falplan.cli.project import load
from falplan.core.errors import FalplanError, Refused

if TYPE_CHECKING:
    from falplan.core.plan import Plan
    from falplan.core.report import Report
    from falplan.core.saved_plan import Binding, SavedPlan
    from falplan.core.spec.resolved import ResolvedSpec
    from falplan.core.state import State
    from falplan.engine.planning import Planned
    from falplan.engine.project import Project
    from falplan.engine.saved import Chosen

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases alone
    """`90m`, `24h`, `7d`, or a number of seconds; more than none, and a year at most."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
        seconds = int(found[1]) * UNITS[found[2] or "s"] if found else 0
        if not 0 < seconds <= 366 * 86400:
            self.fail(f"{value!r} is no time such as 90m, 24h or 7d, at most a year.", param, ctx)
        return float(seconds)


def keep_plan(
    options: Options, project: Project, state: State, planned: Planned, report: Report, path: Path, chosen: Chosen
) -> None:
    """Save a plan that apply could carry out, with what was shown of it, and say how. `state` is the one that was read.

    Raises:
        Refused: the value of a secret is not here, state of an earlier apply was not saved, or the file would travel with an app.
    """
    from falplan.engine.last_resort import left_over, refuse
    from falplan.engine.planning import check_secrets
    from falplan.engine.saved import save_plan

    left = left_over(project, state)
    if left is not None:
        raise refuse(left, state)
    check_secrets(planned)
    check_apart(project.spec, path)
    saved = save_plan(project, state, planned, report, path, chosen)
    if path.is_relative_to(project.spec.folder):
        names = [Path(f) for f in chosen.variable_files]
        try:
            check_apart(load(options, chosen.variables, names, quiet=True), path)
        except FalplanError:
            path.unlink(missing_ok=True)
            raise
    until = clock.timestamp(saved.binding.valid_until)
    command = f"falplan apply {shlex.quote(str(path))}"
    click.echo(f"\nSaved the plan in {path}. Until {until}, `{command}` carries out exactly this.", err=True)


def check_apart(spec: ResolvedSpec, path: Path) -> None:
    """Refuse a plan that is one of an app's files: it would be a change of the spec that it was made from.

    Raises:
        Refused: it is; names the app.
    """
    for app in spec.apps:
        root = Path(app.bundle.root)
        if path.is_relative_to(root) and path.relative_to(root).as_posix() in {f.path for f in app.bundle.files}:
            detail = f"{path} is one of the files of {app.address}. No plan was saved: name another place, or name it in .falplanignore."
            raise Refused("The plan would travel with an app", detail)


def moved_since(found: Sequence[str]) -> Refused:
    """The error for a world that is not as it was when the plan was made."""
    after = "Nothing was changed. Look at it: `falplan plan`. Or let a new plan take its place: `--on-drift replan`."
    return Refused("The world moved since the plan was made", "\n".join([*found, after]))


def check_replanned(reviewed: Plan, new: Plan) -> None:
    """Refuse a new plan, for which nobody is asked, if it removes more than was agreed to.

    Raises:
        Refused: it destroys or replaces what the reviewed plan left in place; names it.
    """
    from falplan.engine.saved import removed_beyond

    beyond = removed_beyond(reviewed, new)
    if beyond:
        detail = f"{', '.join(beyond)}: destroyed or replaced now, and not by the plan that was reviewed."
        raise Refused(
            "The new plan removes more", f"{detail} Nothing was changed. Review it: `falplan plan --out FILE`."
        )


def print_saved(project: Project, path: Path, options: Options, *, as_json: bool) -> None:
    """`falplan show FILE`.

    Raises:
        Refused: it is no saved plan of this project, or was edited.
    """
    from falplan.core.plan_json import report_to_json
    from falplan.engine.saved import open_saved

    saved = open_saved(project, path)
    if as_json:
        shown = replace(saved.report, observed={})  # it stands beside: what was looked at, and not what is planned
        body = report_to_json(shown, prior=saved.prior, timestamp=clock.timestamp(saved.binding.created_at))
        click.echo(json.dumps({**body, "saved": binding_json(saved)}))
        return
    show_plan(saved.report, options, "human", prior=None)
    click.echo(f"\n{describe(saved.binding, clock.now())}")


def binding_json(saved: SavedPlan) -> dict[str, object]:
    """What the plan is bound to, in short."""
    b = saved.binding
    return {
        "project": b.project,
        "environment": b.environment or None,
        "lineage": b.lineage,
        "serial": b.serial,
        "state_digest": b.state_digest,
        "spec_digest": b.spec_digest,
        "falplan": b.falplan,
        "providers": dict(b.providers),
        "created_at": clock.timestamp(b.created_at),
        "valid_until": clock.timestamp(b.valid_until),
        "destroys": b.destroys,
        "observed": dict(saved.report.observed),
    }


def describe(binding: Binding, now: float) -> str:
    """When it was made, for what, and how long it holds good."""
    of = f"environment {binding.environment} of project" if binding.environment else "project"
    ends = "expired at" if now >= binding.valid_until else "holds good until"
    made = f"Made at {clock.timestamp(binding.created_at)} by falplan {binding.falplan}, for {of} {binding.project}"
    return f"{made} at serial {binding.serial}; {ends} {clock.timestamp(binding.valid_until)}. Its signature is right."
