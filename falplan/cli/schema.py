"""`falplan schema`: print a JSON Schema. Reads no spec."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable

import click

from falplan.core.values import JsonObject

SCHEMAS: dict[str, str] = {
    "spec": "falplan.core.spec.schema:spec_schema",
    "plan": "falplan.core.schemas:plan_schema",
    "state": "falplan.core.schemas:state_schema",
    "host-check": "falplan.views.hosts:check_schema",
    "events": "falplan.views.events_schema:events_schema",
}
"""what -> module:function that makes the schema; imported when it is asked for."""


def schema_text(what: str) -> str:
    """The schema as it is committed under schemas/: indented JSON with a newline at its end."""
    module, _, function = SCHEMAS[what].partition(":")
    make: Callable[[], JsonObject] = getattr(importlib.import_module(module), function)
    return json.dumps(make(), indent=2, ensure_ascii=False) + "\n"


@click.command(name="schema")
@click.argument("what", type=click.Choice(list(SCHEMAS)), default="spec")
def command(what: str) -> None:
    """Print the JSON Schema of spec files, for editors and checkers, or of what falplan prints and keeps."""
    click.echo(schema_text(what), nl=False)
