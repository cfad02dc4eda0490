"""`falplan validate`: check the spec and print every finding with its place. Touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import click

from falplan.cli.context import Options
from falplan.core.errors import ExitCode, SpecInvalid
from falplan.core.spec.resolved import ResolvedSpec

Format = Literal["human", "json", "github"]


def parse_variables(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """`name=value` options as a mapping; the last of a name wins.

    Raises:
        click.BadParameter: without `=` or without a name.
    """
    found: dict[str, str] = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", ctx, param)
        found[name] = text
    return found


@click.command(name="validate")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["human", "json", "github"]),
    default="human",
    help="How findings are printed.",
)
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", callback=parse_variables, help="Set a variable."
)
@click.option(
    "--var-file", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Read variables."
)
@click.pass_obj
def command(options: Options, shape: str, variables: dict[str, str], files: tuple[Path, ...]) -> int:
    """Check the spec; print every error with its place. Exits 3 when there is one."""
    from falplan import registry
    from falplan.stores.spec import load_spec

    layout = cast("Format", shape)
    paths = tuple(options.folder / file for file in files)
    try:
        spec = load_spec(
            options.folder,
            options.file,
            variables=variables,
            variable_files=paths,
            environ=options.environ,
            providers=registry.available(),
        )
    except SpecInvalid as exc:
        if layout == "human":
            raise
        from falplan.views.diagnostics import render

        click.echo(render(exc.diagnostics, format=layout))
        return ExitCode.SPEC_INVALID
    _report(spec, layout, options.color)
    return ExitCode.DONE


def _report(spec: ResolvedSpec, layout: Format, color: bool) -> None:
    from falplan.views.diagnostics import render

    if layout != "human":
        text = render(spec.warnings, format=layout)
        if text:
            click.echo(text)
        return
    if spec.warnings:
        click.echo(render(spec.warnings, color=color), err=True)
        click.echo(err=True)
    click.echo(_success(spec))


def _success(spec: ResolvedSpec) -> str:
    apps, environments = len(spec.apps), len(spec.environments)
    warned = f" {_count(len(spec.warnings), 'warning')}." if spec.warnings else ""
    return f"Success! The spec is valid: {_count(apps, 'app')} in {_count(environments, 'environment')}.{warned}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
