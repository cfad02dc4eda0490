"""What a program needs to talk to a project's gateway: hosts, key and certificates."""

from __future__ import annotations

from collections.abc import Mapping

from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import FalplanError


def access(options: Options) -> dict[str, str]:
    """The environment variables that fal_client reads, for the gateway of the project at hand.

    Raises:
        FalplanError: nothing was applied.
    """
    home = open_here(options).home_here()
    at, key = home.endpoint(), api_key(home.key("api"), options.environ)
    if at is None or key is None:
        raise FalplanError("The control plane is not running", "`falplan apply` starts it.")
    host = at.url.removeprefix("https://")
    return {
        "FAL_KEY": key,
        "FAL_RUN_HOST": f"{host}/run",
        "FAL_QUEUE_RUN_HOST": f"{host}/queue",
        "SSL_CERT_FILE": str(home.ca_bundle),
    }


def api_key(kept: str | None, environ: Mapping[str, str]) -> str | None:
    """FALPLAN_KEY if it is set, the key kept for this user otherwise."""
    return environ.get("FALPLAN_KEY") or kept
