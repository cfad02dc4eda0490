"""Who calls, and whether they may. Decisions hang on the matched app and default to no."""

from __future__ import annotations

from typing import Protocol

from multidict import CIMultiDictProxy

from falplan.core.runtime import AuthMode, Key, KeyScope, LiveApp
from falplan.gateway.replies import Refusal


class Verifies(Protocol):
    """The part of the key store that is needed here."""

    def verify(self, presented: str) -> Key | None: ...


def caller_of(headers: CIMultiDictProxy[str], keys: Verifies) -> Key | None:
    """The key that comes with a request, as `Key id:secret` or `Bearer id:secret`. None for no key or an unknown one."""
    values = headers.getall("Authorization", [])
    if len(values) != 1:
        return None
    scheme, _, presented = values[0].partition(" ")
    if scheme.lower() not in ("key", "bearer"):
        return None
    return keys.verify(presented.strip())


def admit(app: LiveApp | None, caller: Key | None) -> LiveApp:
    """The app, if the caller may call it. Names of apps are told only to callers with a key.

    Raises:
        Refusal: unauthorized or not_found.
    """
    if app is not None and app.auth is AuthMode.PUBLIC:
        return app
    require(caller)
    if app is None:
        raise Refusal("not_found", "There is no such app here.")
    return app


def require(caller: Key | None, scope: KeyScope = KeyScope.API) -> Key:
    """The caller, if its key has the scope; ADMIN includes API.

    Raises:
        Refusal: unauthorized or forbidden.
    """
    if caller is None:
        detail = "A valid key is needed: send `Authorization: Key <id>:<secret>`."
        raise Refusal("unauthorized", detail, headers={"WWW-Authenticate": "Key"})
    if caller.scope not in (scope, KeyScope.ADMIN):
        raise Refusal("forbidden", f"This key has the scope {caller.scope.value}; {scope.value} is needed.")
    return caller


def keeps_authorization(app: LiveApp, caller: Key | None) -> bool:
    """Whether the Authorization header is the app's own business. A key of this gateway never reaches a runner."""
    return app.auth is AuthMode.PUBLIC and caller is None
