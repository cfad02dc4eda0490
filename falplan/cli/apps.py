"""`falplan apps list|scale|auth|revisions|rollback|reset`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import FalplanError
from falplan.core.overrides import RUNTIME
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.values import Json, JsonObject

if TYPE_CHECKING:
    from falplan.core.operations import OperationKind
    from falplan.engine.client import AdminClient

F = TypeVar("F", bound=Callable[..., Any])

RETURNS = "It stays until the next `falplan apply` that deploys the app, which returns it to the spec; `falplan apps reset` does so now."
MANY = ("regions", "skip_retry_conditions")
SCALED = [n for n in RUNTIME if n != "auth"]


@click.group()
def command() -> None:
    """List apps and their endpoints; override settings and the revision of one until the next deploy.

    APP is an app's name, its address or its endpoint.
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, as_json: bool) -> None:
    """List apps: endpoint, revision, runners, waiting requests."""
    from falplan.views.tables import table

    apps = open_here(options).running_client().get("/world")["apps"]
    if as_json:
        click.echo(json.dumps(apps))
        return
    rows = [
        [
            a["endpoint"],
            a["revision"] or "(none)",
            a["settings"].get("auth", ""),
            ", ".join(f"{n} {s}" for s, n in a["runners"].items()) or "none",
            a["waiting"],
            a["url"],
            ", ".join(path.removeprefix("settings.") for path in _overrides(a)),
        ]
        for a in apps
    ]
    headers = ["ENDPOINT", "REVISION", "AUTH", "RUNNERS", "WAITING", "URL", "OVERRIDDEN"]
    shown = len(headers) if any(map(_overrides, apps)) else len(headers) - 1
    click.echo(table(headers[:shown], [row[:shown] for row in rows]))
    for a in apps:
        if a.get("held"):
            click.echo(f"{a['endpoint']} gets no further runner: {a['held']}")


def _overrides(row: Any) -> dict[str, Any]:
    """Of an app; none as an older control plane tells it."""
    found: dict[str, Any] = row.get("overrides", {})
    return found


def app_options(function: F) -> F:
    """APP, its environment, and how the answer is printed."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    function = click.option(
        "-e",
        "--environment",
        default="main",
        show_default=True,
        metavar="NAME",
        help="The environment of a plain name.",
    )(function)
    return click.argument("app")(function)


def scale_options(function: F) -> F:
    """An option for each setting that is changed in place."""
    for name in reversed(SCALED):
        known = APP_FIELDS[name]
        more = " Repeat it for several." if name in MANY else ""
        null = " 0 for none." if name == "request_start_timeout" else ""
        null = f" `{CLEARING[name]}` alone clears it." if name in CLEARING else null
        text = f"{known.meaning[0].upper()}{known.meaning[1:]}.{more}{null}"
        option = click.option(
            f"--{name.replace('_', '-')}", name, multiple=name in MANY, metavar=_metavar(name), help=text
        )
        function = option(function)
    return function


CLEARING = {"regions": "all", "skip_retry_conditions": "none"}
"""The word that sets a list back to what it is by default."""


def _metavar(name: str) -> str:
    return {"seconds": "DURATION", "runners": "N", "percent": "PERCENT"}.get(APP_FIELDS[name].unit, "NAME")


@command.command()
@app_options
@scale_options
@click.pass_obj
def scale(options: Options, /, app: str, environment: str, as_json: bool, **given: Any) -> None:
    """Change settings of an app at once, on the runners that run."""
    settings = {name: _value(name, word) for name, word in given.items() if word not in (None, ())}
    if not settings:
        raise click.UsageError("Name at least one setting, such as --max-concurrency 8.")
    _override(options, app, environment, settings, as_json)


@command.command()
@app_options
@click.argument("mode", metavar="private|public", type=click.Choice(["private", "public"]))
@click.pass_obj
def auth(options: Options, app: str, mode: str, environment: str, as_json: bool) -> None:
    """Say who may call an app: callers with a key, or everybody."""
    _override(options, app, environment, {"auth": mode}, as_json)


@command.command()
@app_options
@click.pass_obj
def revisions(options: Options, app: str, environment: str, as_json: bool) -> None:
    """List the revisions of an app that are kept, and which one serves."""
    from falplan.views.tables import table

    client = open_here(options).running_client()
    row = find_app(client, app, environment)
    found = _revisions(client, row)
    if as_json:
        click.echo(json.dumps(found))
        return
    applied = _overrides(row).get("revision", {}).get("applied")
    rows = [
        [r["revision"], r["created_at"], r["served_at"] or "never", _state(r, applied)]
        for r in sorted(found, key=lambda r: str(r["created_at"]))
    ]
    click.echo(table(["REVISION", "MADE", "SERVED SINCE", "STATE"], rows))


def _state(revision: Any, applied: str | None) -> str:
    return f"{revision['state']}, applied" if revision["revision"] == applied else str(revision["state"])


@command.command()
@app_options
@click.argument("revision", required=False)
@click.pass_obj
def rollback(options: Options, app: str, revision: str | None, environment: str, as_json: bool) -> None:
    """Let a kept revision serve: by default the one that served before. Settings that are changed in place stay.

    A runner of it is healthy before the first request gets there; if none is, what serves goes on.
    """
    from falplan.core.operations import OperationKind

    client = open_here(options).running_client()
    row = find_app(client, app, environment)
    wanted = revision or _before(row, _revisions(client, row))
    _carry_out(client, row, OperationKind.SET_REVISION, {"revision": wanted}, as_json)


def _before(row: Any, kept: list[Any]) -> str:
    served = [r for r in kept if r["served_at"] and r["revision"] != row["revision"]]
    if not served:
        detail = f"{row['address']}: no other revision is known to have served. `falplan apps revisions` lists those that are kept."
        raise FalplanError("There is no revision to go back to", detail)
    return str(max(served, key=lambda r: str(r["served_at"]))["revision"])


@command.command()
@app_options
@click.pass_obj
def reset(options: Options, app: str, environment: str, as_json: bool) -> None:
    """Drop everything that is overridden of an app: back to what was applied."""
    from falplan.core.operations import OperationKind

    client = open_here(options).running_client()
    row = find_app(client, app, environment)
    if not _overrides(row) and not row["rollout"] and not as_json:
        click.echo(f"{row['address']}: nothing is overridden.")
        return
    _carry_out(client, row, OperationKind.RESET, {}, as_json)


def _override(options: Options, app: str, environment: str, settings: JsonObject, as_json: bool) -> None:
    from falplan.core.operations import OperationKind

    client = open_here(options).running_client()
    row = find_app(client, app, environment)
    _carry_out(client, row, OperationKind.OVERRIDE, {"settings": settings}, as_json)


def _carry_out(client: AdminClient, row: Any, kind: OperationKind, more: JsonObject, as_json: bool) -> None:
    """Ask for it, wait for its end, and print what changed."""
    body: JsonObject = {"address": row["address"], "endpoint": row["endpoint"], **more}
    client.perform(clock.new_uuid(), kind, body, progress=lambda line: click.echo(line, err=True))
    after = find_app(client, row["endpoint"], "")
    changed = _differences(row, after)
    if as_json:
        body = {"address": row["address"], "endpoint": row["endpoint"], "changed": changed}
        click.echo(json.dumps({**body, "overrides": _overrides(after)}))
        return
    for path, values in changed.items():
        name, applied = path.removeprefix("settings."), path not in _overrides(after)
        note = "  (as applied)" if applied else ""
        click.echo(f"{row['address']}: {name} {_word(values['before'])} -> {_word(values['after'])}{note}")
    if not changed:
        click.echo(f"{row['address']}: nothing changed, it is so already.")
    if any(path in _overrides(after) for path in changed):
        click.echo(RETURNS)


def _differences(before: Any, after: Any) -> dict[str, Any]:
    found = {"revision": (before["revision"], after["revision"])}
    for name, value in after["settings"].items():
        found[f"settings.{name}"] = (before["settings"].get(name), value)
    return {path: {"before": old, "after": new} for path, (old, new) in found.items() if old != new}


def _word(value: Json) -> str:
    from falplan.core.audit import setting_word

    return setting_word(value)


def _revisions(client: AdminClient, row: Any) -> list[Any]:
    from urllib.parse import quote

    path = f"/revisions?endpoint={quote(row['endpoint'], safe='')}"
    found: list[Any] = get_new(client, path, "does not tell of revisions")["revisions"]
    return found


def get_new(client: AdminClient, path: str, lacks: str) -> Any:
    """What a control plane of an older release may not have a route for.

    Raises:
        FalplanError: it has none.
    """
    from falplan.engine.client import Answered

    try:
        return client.get(path)
    except Answered as exc:
        if exc.status != 404:
            raise
        detail = f"It {lacks}: upgrade it with `falplan apply`, on its own machine."
        raise FalplanError("The control plane is older than this falplan", detail) from None


def find_app(client: AdminClient, word: str, environment: str) -> Any:
    """The row in GET /world of the app with that name, address or endpoint.

    Raises:
        FalplanError: there is none; it names the nearest.
    """
    from falplan.core.spec.words import did_you_mean, quoted

    rows = {}
    for row in client.get("/world")["apps"]:
        _, at, name = row["address"].split(".")
        rows[row["address"]] = rows[row["endpoint"]] = row
        if at == environment:
            rows[name] = row
    if word not in rows:
        short = [key for key in rows if "." not in key and "/" not in key]
        hint = did_you_mean(word, short if short and "." not in word and "/" not in word else rows)
        where = f" in environment {quoted(environment)}" if "." not in word and "/" not in word else ""
        raise FalplanError(
            "No such app", f"The control plane has no app {quoted(word)}{where}; {hint or 'it has none'}"
        )
    return rows[word]


def _value(name: str, word: Any) -> Json:
    """What was typed, as the spec would hold it; whether it fits is the control plane's to say."""
    if name in MANY:
        words = list(word)
        return {"regions": None, "skip_retry_conditions": []}[name] if words == [CLEARING[name]] else words
    if name == "request_start_timeout" and word == "0":
        return None
    if re.fullmatch(r"-?[0-9]{1,15}", word):
        return int(word)
    return float(word) if re.fullmatch(r"-?[0-9]{1,15}\.[0-9]{1,9}", word) else str(word)
