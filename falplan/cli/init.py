"""`falplan init`: write a small spec and app that deploy as they are. Overwrites nothing unless told to."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.schema import schema_text
from falplan.core.errors import FalplanError, Refused
from falplan.stores.files import write_whole

SCHEMA_FILE = ".falplan/spec.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"
SPEC = """\
{schema}
version: 1
project: {project}

# Apps by name. Editors that read the line above explain every key; `falplan schema spec` prints the schema.
apps:
  hello:
    app: app.py::Hello # a fal.App: file, two colons, class
    machine_type: XS # half a CPU and 512 MB; GPU-A100 and others are built in
    min_concurrency: 0 # stop all runners when nobody calls
    max_concurrency: 2 # never more runners than this
    keep_alive: 1m # keep an idle runner this long

# Other environments beside `main`, each with the settings that differ there:
# environments:
#   staging:
#     apps: all
"""
APP = '''\
"""A first app: one endpoint that answers, one that streams."""

from collections.abc import Iterator

import fal
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Input(BaseModel):
    name: str = "world"


class Output(BaseModel):
    text: str


class Hello(fal.App):
    def setup(self) -> None:
        print("ready to greet")

    @fal.endpoint("/")
    def greet(self, request: Input) -> Output:
        print(f"greeting {request.name}")
        return Output(text=f"Hello, {request.name}!")

    @fal.endpoint("/stream")
    def stream(self, request: Input) -> StreamingResponse:
        def events() -> Iterator[str]:
            for word in ("Hello,", f"{request.name}!"):
                yield f'data: {{"text": "{word}"}}\\n\\n'

        return StreamingResponse(events(), media_type="text/event-stream")
'''
IGNORED = ".falplan/"
KEY_FILE = "project.key"
NEXT = """
Next:
  falplan validate           check the spec
  falplan plan               show what apply would do
  falplan apply              deploy
  falplan call hello '{"name": "you"}'
"""


@click.command(name="init")
@click.option("--force", is_flag=True, help="Overwrite falplan.yaml and app.py.")
@click.pass_obj
def command(options: Options, force: bool) -> None:
    """Write falplan.yaml, app.py, the project's key and a line in .gitignore. Overwrites nothing without --force."""
    folder = options.folder
    contents = {
        "falplan.yaml": SPEC.format(schema=SCHEMA_LINE, project=project_name(folder.resolve().name)),
        "app.py": APP,
    }
    present = [name for name in (*contents, "falplan.yml") if os.path.lexists(folder / name)]
    if present and not force:
        detail = f"{', '.join(present)} is already in {folder}. Nothing was written. --force overwrites."
        raise Refused("Refusing to overwrite", detail)
    try:
        for name, text in contents.items():
            _write(folder / name, text, replace=force)
            click.echo(f"Wrote {name}")
        (folder / SCHEMA_FILE).parent.mkdir(exist_ok=True)
        write_whole(folder / SCHEMA_FILE, schema_text("spec").encode(), point="init")
        if _ignore(folder / ".gitignore"):
            click.echo(f"Added {IGNORED} to .gitignore")
        if _make_key((folder / SCHEMA_FILE).parent, options):
            click.echo(
                f"Made {IGNORED}{KEY_FILE}, the project's key: keep it private, and a copy of it in a safe place"
            )
    except OSError as exc:
        raise FalplanError("Can't write", f"{exc.filename}: {os.strerror(exc.errno or 0)}.") from exc
    click.echo(NEXT, nl=False)


def _make_key(folder: Path, options: Options) -> bool:
    """Make the project's key unless there is one. Says whether it did."""
    from falplan.stores.project_key import ProjectKeys

    keys = ProjectKeys(folder, options.environ)
    if keys.read() is not None:
        return False
    keys.ensure()
    return True


def project_name(text: str) -> str:
    """A name of a project made from a folder's: lower case, letters, digits and single hyphens."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    made = "-".join(words)[:63].strip("-").lstrip("0123456789-")
    return made or "demo"


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Create the file; only with `replace` may it be there already."""
    if replace:
        write_whole(path, text.encode(), point="init")
        return
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _ignore(path: Path) -> bool:
    """Name falplan's folder in .gitignore unless it is there already. Says whether it wrote."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if any(line.strip().rstrip("/") in (".falplan", "/.falplan") for line in text.splitlines()):
        return False
    separator = "" if not text or text.endswith("\n") else "\n"
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(f"{separator}{IGNORED}\n")
    return True
