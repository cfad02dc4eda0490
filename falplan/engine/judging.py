"""Holds a plan against what its spec says of it: costs, room, budgets, protection, checks, policies, outputs. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from falplan.core.budgets import judge_budgets, judge_launches
from falplan.core.capacity import capacity_of, capacity_section
from falplan.core.consequences import recreated
from falplan.core.cost import Costs, cost_scope, cost_section, costs_of
from falplan.core.errors import Refused
from falplan.core.findings import Finding, Source, findings_section, in_order, refusal_text
from falplan.core.interpreters import judge_interpreters
from falplan.core.outputs import outputs_section
from falplan.core.plan import Action, Plan
from falplan.core.policies import judge_policies
from falplan.core.protection import protected_destroys
from falplan.core.purchases import Shop, purchases_section
from falplan.core.questions import Answer, Question, check_questions, findings_of, plan_counts, policy_questions
from falplan.core.report import Section
from falplan.core.resources import GATEWAY, ResourceType, prices_of
from falplan.core.scope import base_scope, with_results
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.spending import Prices, Spending, spending_from_json
from falplan.core.state import State
from falplan.core.values import Json, JsonObject
from falplan.engine.holdings import held
from falplan.engine.outputs import results_of
from falplan.engine.planning import LASTING, SHORT_LIVED, Planned, live_runners, machines_after, python_of, short_lived
from falplan.engine.project import Project
from falplan.engine.reaching import Where
from falplan.engine.shopping import sellers
from falplan.stores.spec.sandbox import Sandbox, Scope


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a plan is told with, and what is held against it. `refusals` keep apply from beginning."""

    sections: tuple[Section, ...] = ()
    refusals: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def check(self) -> None:
        """Refuse the plan if anything does.

        Raises:
            Refused: every refusal with its place, what is allowed, and the way out.
        """
        refuse(self.refusals)


def refuse(findings: Iterable[Finding]) -> None:
    """Refuse if any of the findings does.

    Raises:
        Refused
    """
    refusing = [f for f in findings if f.refuses]
    if refusing:
        raise Refused(*refusal_text(refusing))


def judge_removal(planned: Planned) -> Judgement:
    """What is held against a plan that destroys."""
    findings = in_order([*_lost(planned), *protected_destroys(planned.plan)])
    refusals = tuple(f for f in findings if f.refuses)
    return Judgement((findings_section(findings),), refusals, tuple(f for f in findings if not f.refuses))


def judge(project: Project, planned: Planned, *, look: bool = True) -> Judgement:
    """Everything that is to be told of a plan beside its changes. Without `look` no machine is looked at, and room is not judged."""
    spec, plan = project.spec, planned.plan
    before, after = costs_of_plan(plan, planned.state, spec)
    prices, runners = prices_of(spec), live_runners(planned.observed)
    there = machines_after(project, planned.observed, plan, planned.state.lineage) if look else []
    shop = planned.shop
    there += [purchase.slots for purchase in shop.bought] if shop else []
    python = python_of(planned.observed)
    capacity = capacity_of(
        plan,
        runners,
        there,
        spec.machine_types,
        follow=planned.follow,
        missing=planned.no_place,
        prices=prices,
        python=python,
    )
    findings = in_order(
        [
            *_lost(planned),
            *_short_lived(planned, project),
            *judge_interpreters(plan, spec.apps, there, spec.machine_types, python),
            *protected_destroys(plan, spec.environments),
            *_budgets(planned, spec, after),
            *judge_policies(spec, after),
            *_asked(spec, plan, after),
        ]
    )
    changes = not plan.is_empty
    sections = (
        cost_section(before, after, rows=changes),
        *([there_now] if (there_now := held(planned.observed)).rows else []),
        *([_bought(shop, planned, spec)] if shop and (shop.bought or shop.lacking) else []),
        *([capacity_section(capacity, spec.machine_types, prices, rows=changes)] if look else []),
        outputs_section(plan),
        findings_section(findings),
    )
    return Judgement(sections, tuple(f for f in findings if f.refuses), tuple(f for f in findings if not f.refuses))


def _bought(shop: Shop, planned: Planned, spec: ResolvedSpec) -> Section:
    sleeps = spec.gateway.get("provider") == "local" and planned.observed.where is Where.HERE
    return purchases_section(shop.bought, planned.follow, shop.owned, shop.regions, sleeps=sleeps, lacking=shop.lacking)


def _lost(planned: Planned) -> list[Finding]:
    return [planned.lost] if planned.lost else []


def _short_lived(planned: Planned, project: Project) -> list[Finding]:
    because = short_lived(planned, project.spec, project.environ)
    return [Finding(Source.GATEWAY, "gateway", SHORT_LIVED, True, GATEWAY, None, (because, LASTING))] if because else []


def _budgets(planned: Planned, spec: ResolvedSpec, after: Costs) -> list[Finding]:
    """What budgets hold against the plan; a launch is looked at only where the fewest runners are within all of them."""
    # Where machines are bought, the budget is that of machines: nothing is bought beyond it.
    bought_in = sellers(spec) if spec.budgets.regions else {}
    budgets = replace(spec.budgets, regions={n: b for n, b in spec.budgets.regions.items() if n not in bought_in})
    found = judge_budgets(after, budgets, spec.positions)
    if any(f.refuses for f in found):
        return found
    spending = Spending(prices_of(spec), budgets)
    runners, first = live_runners(planned.observed), recreated(planned.plan)
    return [*found, *judge_launches(planned.follow, runners, spending, spec.machine_types, recreated=first)]


def costs_before(state: State, spec: ResolvedSpec) -> Costs:
    """What was applied costs, by the prices of that time."""
    return costs_of(_applied(state), *_prices_before(state, spec))


def costs_of_plan(plan: Plan, state: State, spec: ResolvedSpec) -> tuple[Costs, Costs]:
    """What was applied costs, by the prices of that time, and what will be there, by the spec's.

    What the plan leaves out stays as it was applied.
    """
    applied, then = _applied(state), _prices_before(state, spec)
    now = prices_of(spec), sorted(spec.regions)
    before, apps = costs_of(applied, *then), _after(plan, applied)
    alike = [a for a, inputs in apps.items() if applied.get(a) == inputs] if then == now else []
    return before, costs_of(apps, *now, known={a: before.apps[a] for a in alike})


def _applied(state: State) -> dict[str, JsonObject]:
    return {a: r.inputs for a, r in state.resources.items() if r.type == ResourceType.APP}


def _prices_before(state: State, spec: ResolvedSpec) -> tuple[Prices, list[str]]:
    """The prices that were applied, and the regions that there were."""
    gateway = state.resources.get(GATEWAY)
    inputs = gateway.inputs if gateway else {}
    regions = inputs.get("regions")
    prices = spending_from_json(inputs.get("prices"), inputs.get("budgets")).prices
    names = sorted(regions if isinstance(regions, dict) else spec.regions)
    return {name: prices.get(name, {}) for name in names}, names


def _after(plan: Plan, applied: Mapping[str, JsonObject]) -> dict[str, JsonObject]:
    """Inputs of the apps that there will be."""
    apps: dict[str, JsonObject] = {}
    for address, change in plan.changes.items():
        if change.type is not ResourceType.APP:
            continue
        if address in plan.left_out:
            if address in applied:
                apps[address] = applied[address]
        elif change.action is not Action.DELETE and change.after is not None:
            apps[address] = change.after
    return apps


def _asked(spec: ResolvedSpec, plan: Plan, costs: Costs) -> list[Finding]:
    more: JsonObject = {"cost": cost_scope(costs.total), "plan": plan_counts(plan)}
    return ask([*check_questions(spec, after=False, more=more), *policy_questions(spec, plan, costs)])


def ask(questions: Iterable[Question]) -> list[Finding]:
    """Evaluate the expressions, in the bounded child process, and tell what objects."""
    with Sandbox() as sandbox:
        return findings_of((question, _answer(sandbox, question)) for question in questions)


def _answer(sandbox: Sandbox, question: Question) -> Answer:
    scope = Scope.of(question.scope)
    value, failure = sandbox.value(question.expression, scope)
    if failure or value is question.wanted or not question.said:
        return Answer(value, failure)
    said, failure = sandbox.value(question.said, scope)
    return Answer(value, said=failure or str(said))


def judge_after(spec: ResolvedSpec, state: State) -> tuple[Finding, ...]:
    """What the checks say of what was applied. Those that refuse have failed."""
    if not any(check.after for check in spec.checks):
        return ()
    costs = costs_of(_applied(state), prices_of(spec), sorted(spec.regions))
    scope = with_results(base_scope(spec), *results_of(state))
    more: dict[str, Json] = {
        **{name: scope[name] for name in ("apps", "gateway")},
        "cost": cost_scope(costs.total),
        "outputs": {name: output.value for name, output in state.outputs.items()},
    }
    return in_order(ask(check_questions(spec, after=True, more=more)))
