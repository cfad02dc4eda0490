"""What a plan is to be about: targets, exclusions, replacements, an environment; shared by plan, apply and destroy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import click

from falplan import clock

if TYPE_CHECKING:
    from falplan.core.plan import Plan
    from falplan.engine.planning import Scope

F = TypeVar("F", bound=Callable[..., Any])


def scope_options(function: F) -> F:
    """`--target`, `--exclude`, `--replace`, `--refresh`, `-e`, `--accept-loss`, which come to the command as one argument, `scope`."""
    return _scoped(function, _OPTIONS)


def part_options(function: F) -> F:
    """`--target`, `--exclude` and `--accept-loss` alone, as `scope`, for a command that makes nothing."""
    return _scoped(function, _PARTS)


def _scoped(function: F, options_of: Sequence[Callable[[Any], Any]]) -> F:
    @functools.wraps(function)
    def with_scope(
        *args: Any,
        targets: Sequence[str],
        excludes: Sequence[str],
        renewed: Sequence[str] = (),
        scoped: str | None = None,
        refresh: bool = True,
        accept_loss: bool = False,
        **options: Any,
    ) -> Any:
        from falplan.engine.planning import Scope

        if targets and excludes:
            raise click.UsageError("--target and --exclude can't be given together.")
        today = clock.timestamp(clock.now())[:10]
        scope = Scope(
            tuple(targets), tuple(excludes), tuple(renewed), scoped or "", refresh, today=today, accept_loss=accept_loss
        )
        return function(*args, scope=scope, **options)

    wrapped: Any = with_scope
    for option in reversed(options_of):
        wrapped = option(wrapped)
    result: F = wrapped
    return result


_ACCEPT_LOSS = click.option(
    "--accept-loss",
    is_flag=True,
    help="Go on although much of what was applied is said to be gone: it really is.",
)

_OPTIONS = (
    click.option(
        "--target", "targets", multiple=True, metavar="ADDRESS", help="Only this resource and what it depends on."
    ),
    click.option(
        "--exclude",
        "excludes",
        multiple=True,
        metavar="ADDRESS",
        help="Everything but this resource and what depends on it.",
    ),
    click.option(
        "--replace", "renewed", multiple=True, metavar="ADDRESS", help="Destroy this resource and make it anew."
    ),
    click.option("-e", "--environment", "scoped", metavar="NAME", help="Only this environment, and what it needs."),
    click.option(
        "--refresh",
        type=bool,
        default=True,
        show_default=True,
        metavar="BOOLEAN",
        help="Look at what is there. With false, what was applied is taken for what is there.",
    ),
    _ACCEPT_LOSS,
)

_PARTS = (
    click.option(
        "--target", "targets", multiple=True, metavar="ADDRESS", help="Only this resource and what depends on it."
    ),
    click.option(
        "--exclude",
        "excludes",
        multiple=True,
        metavar="ADDRESS",
        help="Everything but this resource and what it depends on.",
    ),
    _ACCEPT_LOSS,
)


def check_environment(known: Sequence[str], name: str) -> None:
    """Refuse an environment that the spec does not have.

    Raises:
        UsageError: with the nearest name.
    """
    if not name or name in known:
        return
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise click.UsageError(f"-e {name}: the spec has {', '.join(known)}.{hint}")


def check_refresh(scope: Scope, *, refresh_only: bool, destroys: bool = False) -> None:
    """Refuse options that contradict one another.

    Raises:
        UsageError: always with both names.
    """
    if refresh_only and not scope.refresh:
        raise click.UsageError("--refresh-only and --refresh=false can't be given together.")
    if refresh_only and scope.renewed:
        raise click.UsageError("--refresh-only changes nothing outside: --replace can't be given with it.")
    if destroys and (refresh_only or scope.renewed or not scope.refresh):
        raise click.UsageError("--destroy can't be given with --refresh-only, --refresh=false or --replace.")


def check_scope(plan: Plan, scope: Scope) -> None:
    """Refuse a name that is nothing's address, and what can't be replaced; warn of exclusions that exclude nothing.

    Raises:
        UsageError: with the nearest address.
    """
    known = plan.changes.keys() | plan.left_out.keys()
    for option, addresses in (("--target", scope.targets), ("--replace", scope.renewed)):
        for address in addresses:
            if address not in known:
                raise click.UsageError(f"{option} {address}: {_nothing(address, known)}")
    if "gateway" in scope.renewed:
        raise click.UsageError(
            "--replace gateway: everything that it serves would go with it. `falplan destroy` says what."
        )
    for address in scope.excludes:
        if address not in known:
            click.echo(
                f"Warning: --exclude {address}: {_nothing(address, known)} Nothing is left out for it.", err=True
            )


def _nothing(address: str, known: Collection[str]) -> str:
    close = get_close_matches(address, sorted(known), n=1)
    return "no resource has this address." + (f" Did you mean {close[0]}?" if close else "")
