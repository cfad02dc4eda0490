"""`falplan apply`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.plan_output import format_options, show_plan
from falplan.cli.project import approve, carry_out_options, dead_option, events_option, open_here
from falplan.cli.scoping import check_environment, check_refresh, check_scope, scope_options
from falplan.core.errors import ExitCode, FalplanError, Refused
from falplan.core.resources import ResourceType, type_of

if TYPE_CHECKING:
    from falplan.cli.telling import Teller
    from falplan.core.plan import Plan
    from falplan.core.saved_plan import SavedPlan
    from falplan.core.state import State
    from falplan.engine.judging import Judgement
    from falplan.engine.planning import Planned, Scope
    from falplan.engine.project import Project


@click.command()
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--on-drift",
    type=click.Choice(["abort", "replan"]),
    default="abort",
    show_default=True,
    help="With FILE, if what it touches is not as it was: touch nothing, or make a new plan and ask.",
)
@click.option(
    "--refresh-only", is_flag=True, help="Record what differs from what was applied, and change nothing else."
)
@scope_options
@format_options
@events_option
@dead_option
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    file: Path | None,
    on_drift: str,
    refresh_only: bool,
    scope: Scope,
    form: str,
    json_into: Path | None,
    markdown_into: Path | None,
    as_json: bool,
    dead: str,
    auto_approve: bool,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Make the world as the spec says, or carry out the saved plan in FILE, which asks nothing more."""
    from falplan.cli.left_over import settle_left_over
    from falplan.cli.telling import told_on
    from falplan.engine.planning import plan_apply, plan_refresh

    if as_json and not auto_approve and file is None:
        raise click.UsageError("--json needs --auto-approve or a saved plan: there is nobody to ask.")
    if file is not None and dead:
        raise click.UsageError("--gateway-is-dead belongs to `falplan plan --out`: the saved plan remembers it.")
    if file is not None and (refresh_only or scope.narrow):
        raise click.UsageError(
            "A saved plan is carried out as it is: say with `falplan plan --out` what it is to be about."
        )
    if file is not None and not options.path(file).exists():
        raise click.UsageError(f"{options.path(file)}: there is no such file. `falplan plan --out FILE` saves a plan.")
    check_refresh(scope, refresh_only=refresh_only)
    with told_on(as_json=as_json, color=options.color) as teller:
        project = _open(options, file, variables, variable_files, parallelism)
        check_environment(project.spec.environments, scope.environment)
        with project.store.locked("apply", timeout=lock_timeout):
            settle_left_over(project, ask=not as_json)
            show = partial(show_plan, options=options, form=form, into=json_into, markdown_into=markdown_into)
            doing = _Doing(project, options, teller, show, as_json, auto_approve, scope.accept_loss)
            if file is not None:
                return doing.saved(options.path(file), replan=on_drift == "replan")
            return doing.spec(dead, replace(scope, acts=True), plan_refresh if refresh_only else plan_apply)


def _open(
    options: Options, file: Path | None, variables: Sequence[str], variable_files: Sequence[Path], parallelism: int
) -> Project:
    """The project; for a saved plan with the variables that it was made with, unless others are given."""
    if file is not None and not variables and not variable_files:
        from falplan.stores.plan_file import read_bytes, variables_in

        variables, names = variables_in(read_bytes(options.path(file)))
        variable_files = [Path(name) for name in names]
    return open_here(options, variables, variable_files, parallelism=parallelism)


QUESTION = "Do you want to perform these actions?"


def trusts(planned: Planned) -> bool:
    """Whether to carry it out is to trust a host key that was just seen."""
    return any(change.trust for change in planned.plan.changes.values())


class _Doing:
    """One `falplan apply`, with its options."""

    def __init__(
        self,
        project: Project,
        options: Options,
        teller: Teller,
        show: Callable[..., None],
        as_json: bool,
        auto_approve: bool,
        accept_loss: bool,
    ) -> None:
        self.project, self.options, self.teller, self.show = project, options, teller, show
        self.as_json, self.auto_approve, self.accept_loss = as_json, auto_approve, accept_loss

    def spec(self, dead: str, scope: Scope, make: Callable[..., Planned]) -> int:
        """What the spec says now, as far as it is in scope. `make` plans it."""
        for _ in range(2):
            code, again = self._once(dead, scope, make)
            if not again:
                break
            dead = ""
            text = "The control plane that was started is older than what was applied: it is told what it lacks."
            click.echo(f"\n{text}", err=self.as_json)
        return code

    def saved(self, path: Path, *, replan: bool) -> int:
        """A saved plan.

        Raises:
            Refused: it does not hold good here and now, or the world moved since it was made; nothing was touched.
        """
        from falplan.cli.saved import moved_since
        from falplan.engine.judging import judge, judge_removal
        from falplan.engine.planning import check_gateway, check_logins, check_places
        from falplan.engine.saved import check_saved, look_again, open_saved
        from falplan.views.plan import summary

        project = self.project
        plan = open_saved(project, path)
        state = check_saved(project, plan)
        planned, found = look_again(project, plan, state)
        if found and not replan:
            raise moved_since(found)
        if found:
            new = self._replan(plan, state, found)
            if new is None:
                return ExitCode.FAILED
            planned = new
        judgement = judge_removal(planned) if plan.binding.destroys else judge(project, planned)
        judgement.check()
        if not found and not self.as_json:
            click.echo(f"Saved plan of {clock.timestamp(plan.binding.created_at)}. {summary(planned.plan)}")
        if not plan.binding.destroys:
            check_gateway(planned, project.spec, self.options.environ)
        check_logins(planned)
        check_places(planned)
        if planned.plan.is_empty:
            return self._nothing(planned)
        code, again = self._carry_out(planned, destroys=plan.binding.destroys)
        if again:
            text = (
                "The control plane that was started is older than what was applied: `falplan plan` shows what it lacks."
            )
            click.echo(text, err=True)
        return ExitCode.FAILED if again else code

    def _replan(self, plan: SavedPlan, state: State, found: Sequence[str]) -> Planned | None:
        """A new plan in place of one that the world has left behind; None if nobody wants it."""
        from falplan.cli.saved import check_replanned
        from falplan.engine.dead import without_dead
        from falplan.engine.judging import judge, judge_removal
        from falplan.engine.planning import Scope, check_logins, check_places, check_secrets, plan_apply, plan_destroy

        click.echo(
            "\n".join(["The world moved since the plan was made:", *found, "A new plan takes its place."]), err=True
        )
        state = without_dead(self.project, state, plan.binding.dead)
        scope = Scope(acts=True, accept_loss=self.accept_loss)
        if plan.binding.destroys:
            planned = plan_destroy(self.project, state, plan.binding.environment or None, scope)
        else:
            self._refuse_part(plan)
            planned = plan_apply(self.project, state, replace(scope, environment=plan.binding.environment))
        judgement = judge_removal(planned) if plan.binding.destroys else judge(self.project, planned)
        self._show(planned, judgement)
        judgement.check()
        check_logins(planned)
        check_places(planned)
        check_secrets(planned)
        _check_blocked(planned)
        if self.auto_approve or planned.plan.is_empty:
            check_replanned(plan.report.plan, planned.plan)
            return planned
        if self.as_json:
            raise Refused(
                "Approval is missing",
                "A new plan takes the place of the reviewed one: read it, then add --auto-approve.",
            )
        if not approve("Do you want to perform these actions instead?", auto_approve=False):
            click.echo("Apply cancelled.")
            return None
        return planned

    @staticmethod
    def _refuse_part(saved: SavedPlan) -> None:
        plan = saved.report.plan
        if plan.left_out or plan.refresh_only:
            detail = "The plan was of a part, chosen by options. Nothing was changed. Make it again: `falplan plan --out FILE`."
            raise Refused("There is no new plan for a part of one", detail)

    def _once(self, dead: str, scope: Scope, make: Callable[..., Planned]) -> tuple[int, bool]:
        """One plan, carried out. Returns the exit code, and whether another plan is needed."""
        from falplan.engine.dead import what_stays, without_dead
        from falplan.engine.judging import judge
        from falplan.engine.planning import check_gateway, check_logins, check_places, check_secrets, check_trust
        from falplan.engine.secrets import ensure_key

        project = self.project
        state = without_dead(project, project.read_state(), dead)
        ensure_key(project, state)
        planned = make(project, state, scope)
        check_scope(planned.plan, scope)
        judgement = judge(project, planned, look=scope.refresh)
        self._show(planned, judgement)
        check_gateway(planned, project.spec, self.options.environ)
        check_logins(planned)
        check_places(planned)
        check_secrets(planned)
        judgement.check()
        if dead:
            click.echo(what_stays(state), err=True)
        if planned.plan.is_empty:
            if planned.plan.unseen:
                return ExitCode.FAILED, False
            return self._nothing(planned), False
        _check_blocked(planned)
        if self.auto_approve:
            check_trust(planned)
        question = "Do you want to perform these actions, and to trust the host keys?" if trusts(planned) else QUESTION
        if not approve(question, auto_approve=self.auto_approve):
            click.echo("Apply cancelled.")
            return ExitCode.FAILED, False
        return self._carry_out(planned, destroys=False)

    def _show(self, planned: Planned, judgement: Judgement) -> None:
        if self.as_json:
            return
        from falplan.engine.report import report_of
        from falplan.views.orphans import render_orphans

        self.show(report_of(planned, judgement.sections), prior=planned.state)
        click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)

    def _nothing(self, planned: Planned) -> int:
        from falplan.cli.telling import nothing_to_do

        nothing_to_do(self.teller, planned)
        if not self.as_json:
            _print_endpoints(planned.state)
        return self._look_after(planned.state)

    def _look_after(self, state: State, *, whole: bool = True) -> int:
        """Print the outputs, and what the checks after an apply say, if it was of everything. Returns the exit code."""
        from falplan.engine.judging import judge_after
        from falplan.views.outputs import output_lines

        for line in () if self.as_json else output_lines(state.outputs):
            click.echo(line)
        findings = judge_after(self.project.spec, state) if whole else ()
        for finding in findings:
            click.echo(f"\n{'Error' if finding.refuses else 'Warning'}: {finding.line}", err=True)
            for line in finding.detail:
                click.echo(f"  {line}", err=True)
        if any(finding.refuses for finding in findings):
            click.echo("Everything was applied and state is saved, but a check of the spec fails.", err=True)
            return ExitCode.FAILED
        return ExitCode.DONE

    def _carry_out(self, planned: Planned, *, destroys: bool) -> tuple[int, bool]:
        from falplan.cli.carry_out import run
        from falplan.engine.outputs import drop_outputs, keep_outputs
        from falplan.engine.settling import Settled, settle

        result, code = run(
            self.project,
            planned.plan,
            planned.state,
            self.teller,
            secrets=planned.secrets.values,
            looked=None if planned.observed.trusting else planned.observed.provided,
            command="destroy" if destroys else "apply",
            destroys=destroys,
        )
        settled = Settled()
        if code == ExitCode.DONE and not destroys:
            settled = settle(self.project, planned, result.state)
        for ended in settled.ended:
            click.echo(f"{ended}: stopped, because nothing that was applied wants it", err=True)
        if code == ExitCode.DONE and not self.as_json:
            _print_complete(planned.plan, result.state, destroys=destroys)
        if code == ExitCode.DONE and destroys and not result.state.resources:
            drop_outputs(self.project, result.state)
        if code == ExitCode.DONE and not destroys and not settled.again:
            code = self._look_after(keep_outputs(self.project, result.state), whole=not planned.plan.left_out)
        return code, settled.again


def _check_blocked(planned: Planned) -> None:
    if planned.plan.blocked:
        because = next(iter(planned.plan.blocked.values()))
        hosts = [a for a in planned.plan.blocked if type_of(a) is ResourceType.HOST]
        way = ""
        if hosts:
            left = " ".join(f"--exclude {a}" for a in hosts)
            way = (
                f" `{left}` leaves what is there as it is; `falplan state rm` forgets a host that never answers again."
            )
        raise FalplanError("Not everything could be looked at", f"{because}. Nothing was changed.{way}")


def _print_complete(plan: Plan, state: State, *, destroys: bool) -> None:
    from falplan.views.progress import APPLY, DESTROY, complete_line

    click.echo(f"\n{complete_line(DESTROY if destroys else APPLY, plan)}")
    if not destroys:
        _print_endpoints(state)


def _print_endpoints(state: State) -> None:
    from falplan.engine.host_gateway import is_alone

    gateway = state.resources.get("gateway")
    apps = [r for a, r in sorted(state.resources.items()) if a.startswith("app.") and "endpoint" in r.outputs]
    if not apps or gateway is None:
        return
    click.echo("\nEndpoints:")
    for app in apps:
        click.echo(f"  {app.address} = {gateway.outputs['url']}/run/{app.outputs['endpoint']}")
    host = gateway.inputs.get("host")
    if host and is_alone(gateway.inputs):
        click.echo(
            f"\nThey are found on {host} alone. From here: `falplan exec -- PROGRAM`; for others: set `gateway.listen`."
        )
