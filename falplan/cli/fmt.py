"""`falplan fmt`: rewrite spec files in the standard layout. Changes no meaning and loses no comment."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.core.errors import ExitCode, FalplanError, SpecInvalid
from falplan.stores.files import write_whole


@click.command(name="fmt")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if a file is not in the standard layout.")
@click.option("--diff", is_flag=True, help="Print what changes.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.pass_obj
def command(options: Options, check: bool, diff: bool, files: tuple[Path, ...]) -> int:
    """Rewrite spec files with two spaces of indentation, comments kept. Prints the names of files that change."""
    changed = False
    for path in _targets(options, files):
        name = _shown(path, options.folder)
        before, after = _formatted(path, name)
        if before == after:
            continue
        changed = True
        click.echo(name)
        if diff:
            click.echo(_difference(before, after, name), nl=False)
        if not check:
            _replace(path, after)
    return ExitCode.FAILED if check and changed else ExitCode.DONE


def _targets(options: Options, files: tuple[Path, ...]) -> Iterator[Path]:
    from falplan.stores.spec.gather import spec_files

    named: list[Path | None] = [options.folder / file for file in files]
    for target in named or [options.file]:
        yield from spec_files(options.folder, target)


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _formatted(path: Path, name: str) -> tuple[str, str]:
    from falplan.stores.spec.findings import Findings, Stop
    from falplan.stores.spec.format import format_text
    from falplan.stores.spec.read import read_source

    findings = Findings()
    try:
        before = read_source(path, name, findings).text
    except Stop as exc:
        raise SpecInvalid(findings.sorted()) from exc
    return before, format_text(before, name)


def _difference(before: str, after: str, name: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name + " (formatted)", lineterm="")
    return "".join(line + "\n" for line in lines)


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename, so that it is whole at every instant; a link stays a link."""
    real = path.resolve()
    try:
        write_whole(real, text.encode(), mode=stat.S_IMODE(real.stat().st_mode), point="fmt")
    except OSError as exc:
        raise FalplanError("Can't write", f"{path}: {os.strerror(exc.errno or 0)}. The file is as it was.") from exc
