"""Opens the place that a spec's `state:` names. Imports a backend's library only when it is that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from falplan.core.errors import Refused
from falplan.core.state import State
from falplan.core.values import Json
from falplan.stores.encryption import seal_of
from falplan.stores.state.backend import Backend
from falplan.stores.state.holding import lease_of
from falplan.stores.state.marker import DEFAULT_FOLDER
from falplan.stores.state.seal import Seal
from falplan.stores.state.seen import SeenSerials
from falplan.stores.state.store import Store


def open_store(
    section: Mapping[str, Json],
    project: str,
    root: Path,
    environ: Mapping[str, str],
    *,
    seal: Seal | None = None,
    saved: Callable[[State], None] | None = None,
) -> Store:
    """The store that a resolved `state:` section names, with the seal that it names unless another is given.

    `root` is the spec's folder. Connects to nothing yet, and asks for no key.

    Raises:
        Refused: a variable that it names is not set, or its folder is a file.
    """
    seal, seen = seal or seal_of(section, project, root, environ), SeenSerials(environ)
    match str(section.get("backend", "local")):
        case "s3":
            return Store(_s3(section, environ), seal, saved, seen)
        case "postgres":
            return Store(_postgres(section, project, environ), seal, saved, seen)
        case _:
            from falplan.stores.state.local import LocalState

            return LocalState(folder_of(section, root), seal, saved, seen)


def folder_of(section: Mapping[str, Json], root: Path) -> Path:
    """The folder on this machine: of local state, and of the project's key with any backend.

    Raises:
        Refused: it is a file.
    """
    folder = root / str(section.get("path") or DEFAULT_FOLDER)
    if folder.exists() and not folder.is_dir():
        raise Refused(
            "The state's folder is a file", f"{folder} must be a folder: it holds state, journal, lock and backups."
        )
    return folder


def _s3(section: Mapping[str, Json], environ: Mapping[str, str]) -> Backend:
    from falplan.stores.state.s3 import S3Objects
    from falplan.stores.state.s3_client import Where

    names = ("bucket", "key", "region", "endpoint_url", "profile")
    texts = {name: str(section.get(name) or "") for name in names}
    return S3Objects(Where(**texts), lease_of(environ))


def _postgres(section: Mapping[str, Json], project: str, environ: Mapping[str, str]) -> Backend:
    from falplan.stores.state.postgres import PostgresRows
    from falplan.stores.state.postgres_client import Where, parameters

    given = section.get("dsn") or ""
    dsn = str(given)
    if isinstance(given, dict):
        variable = str(given["env"])
        dsn = environ.get(variable, "")
        if not dsn:
            detail = f"`state:` says that {variable} holds the connection string of PostgreSQL. Set it, then try again."
            raise Refused("The place of the state is not known here", detail)
        try:
            parameters(dsn)
        except ValueError as exc:
            raise Refused(
                "The place of the state is not known here", f"{variable} is no connection string: {exc}."
            ) from exc
    schema, _, table = cast("str", section.get("table") or "falplan.state").partition(".")
    return PostgresRows(Where(dsn, schema, table, project), lease_of(environ))
