"""How commands show a plan: in which format, how wide, and its JSON to a file beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from falplan.cli.context import Options
from falplan.core.errors import FalplanError

if TYPE_CHECKING:
    from falplan.core.report import Report
    from falplan.core.state import State
    from falplan.views.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("human", "tree", "markdown", "json")


def format_options(function: F) -> F:
    """`--format`, `--json-into` and `--markdown-into`, for commands that show a plan."""
    paper = click.option(
        "--markdown-into",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write the plan's Markdown to FILE, too.",
    )
    into = click.option(
        "--json-into",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write the plan's JSON to FILE, too.",
    )
    shape = click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="human",
        show_default=True,
        help="How the plan is shown: in full, a line for each resource, for a pull request, or for programs.",
    )
    return shape(into(paper(function)))


def show_plan(
    report: Report,
    options: Options,
    form: str,
    *,
    prior: State | None,
    into: Path | None = None,
    markdown_into: Path | None = None,
    timestamp: str = "",
) -> None:
    """Print a plan, after its JSON and its Markdown are written to `into` and `markdown_into`.

    `prior` and `timestamp` go into the JSON, see `report_to_json`.

    Raises:
        FalplanError: a file can't be written; it is as it was.
    """
    from falplan.core.plan_json import render_plan_json

    if into is not None:
        json_text = render_plan_json(report, prior=prior, timestamp=timestamp) + "\n"
        _write(options.folder / into, json_text, "JSON", "--json-into")
    if markdown_into is not None:
        markdown = plan_text(report, "markdown", screen_of(options))
        _write(options.folder / markdown_into, markdown, "Markdown", "--markdown-into")
    if form == "json":
        click.echo(render_plan_json(report, prior=prior, timestamp=timestamp))
    else:
        click.echo(plan_text(report, form, screen_of(options)), nl=False, color=options.color)


def plan_text(report: Report, form: str, screen: Screen) -> str:
    """A plan for people, in one of the formats that they read."""
    from falplan.views.plan import render_plan
    from falplan.views.plan_markdown import render_plan_markdown
    from falplan.views.plan_tree import render_plan_tree

    match form:
        case "tree":
            return render_plan_tree(report, screen)
        case "markdown":
            return render_plan_markdown(report)
        case _:
            return render_plan(report, screen)


def _write(path: Path, text: str, what: str, option: str) -> None:
    """A plan as a file that only its owner reads; whole, or as it was.

    Raises:
        FalplanError: why it can't be written.
    """
    from falplan.stores.files import write_whole

    try:
        write_whole(path, text.encode(), mode=0o600, point="plan_json")
    except OSError as exc:
        detail = f"{path}: {exc.strerror or exc}. Nothing was changed. Name another file after {option}."
        raise FalplanError(f"The plan's {what} can't be written", detail) from exc


def screen_of(options: Options) -> Screen:
    """Standard output: as wide as its terminal, or as COLUMNS says of it; a file or a pipe takes lines of any length."""
    from falplan.views.screen import Screen

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return Screen(_columns(options), options.color, encoding)


def _columns(options: Options) -> int | None:
    if not sys.stdout.isatty():
        return None
    told = options.environ.get("COLUMNS", "")
    if told.isdecimal():
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        return 0
