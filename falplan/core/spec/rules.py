"""What a plan is held against, as it is written: checks, outputs, policies. Knows nothing of how they are judged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from falplan.core.spec.codes import Code
from falplan.core.spec.model import Model, one_of
from falplan.core.spec.types import Bool, Money, Name, Positive, Text, fault, one_or_many, text

SEVERITIES = ("error", "warning")
MOMENTS = ("before", "after")
LEVELS = ("mandatory", "advisory")

RULES: dict[str, tuple[str, ...]] = {
    "required_tags": ("tags",),
    "allowed_machine_types": ("machine_types",),
    "allowed_regions": ("regions",),
    "maximum_cost": ("per_app", "per_environment", "in_all"),
    "maximum_runners": ("runners",),
    "no_public_apps": (),
}
"""Rule of a policy -> its parameters, of which it needs at least one if it has any."""


def _expression(value: Any) -> str:
    word = text(value)
    if "{{" in word:
        return word
    raise fault(Code.TEMPLATE, "not an expression", 'write it as "{{ … }}"')


Expression = Annotated[str, PlainValidator(_expression), WithJsonSchema({"type": "string", "pattern": r"\{\{"})]


def _names(value: Any) -> list[str]:
    return one_or_many(text)(value)


_NAMES_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
Names = Annotated[list[str], PlainValidator(_names), WithJsonSchema(_NAMES_SCHEMA)]


def _tag_values(value: Any) -> Any:
    """Names of tags, or tags with the values that each may have; a list of names allows any value."""
    if isinstance(value, dict):
        return {
            tag: [] if allowed is None or str(allowed) == "any" else _names(allowed) for tag, allowed in value.items()
        }
    return {tag: [] for tag in _names(value)}


class Check(Model):
    """Something that must hold: a precondition of apply, or what is looked at once everything was applied."""

    assert_: Expression = Field(
        alias="assert",
        description="An expression that is true when all is well. In scope: `var`, `project`, `environments`, "
        "`apps.<environment>.<name>.<setting>`, `cost.min` and `cost.max` (USD an hour); with `when: before` also `plan.create`, "
        "`plan.update`, `plan.delete` and `plan.replace` (numbers of resources), with `when: after` also `outputs.<name>`, "
        "`gateway.url` and each app's `url` and `revision`.",
        examples=["{{ cost.max <= var.most }}"],
    )
    error: Text = Field(
        description="What is said when it does not hold. Expressions in it see what the assertion sees.",
        examples=["This would cost {{ cost.max }} USD an hour."],
    )
    severity: Annotated[str, *one_of(*SEVERITIES)] = "error"
    """`error`: apply is refused, or has failed. `warning`: it is told."""
    when: Annotated[str, *one_of(*MOMENTS)] = "before"
    """`before`: judged with the plan, before anything is touched. `after`: judged once everything was applied."""


class Output(Model):
    """A value that others use: kept in state, printed by `falplan output`."""

    value: Text
    """Text with expressions. In scope: `var`, `project`, `environments`, `gateway.url`, and of each app, as
    `apps.<environment>.<name>`, its settings, `endpoint`, `url` and `revision`."""
    description: Text = ""
    """What it is for."""
    sensitive: Bool = False
    """Print it only when it is asked for by name. It stands in state all the same."""


class PolicyParameters(Model):
    """What a policy's rule allows or asks for. Each rule has its own keys."""

    tags: Annotated[
        dict[str, list[str]] | None,
        PlainValidator(_tag_values),
        WithJsonSchema({"anyOf": [*_NAMES_SCHEMA["anyOf"], {"type": "object", "additionalProperties": True}]}),
    ] = Field(
        default=None,
        description="`required_tags`: the tags that every app must have, each perhaps with the values that it may have.",
        examples=[["team"], {"team": ["vision", "speech"], "cost-center": "any"}],
    )
    machine_types: Names | None = None
    """`allowed_machine_types`: those that apps may name."""
    regions: Names | None = None
    """`allowed_regions`: those that apps may be put in. An app that names none may be put in all."""
    per_app: Money | None = None
    """`maximum_cost`: USD an hour that one app may cost with all its runners up."""
    per_environment: Money | None = None
    """`maximum_cost`: the same for all apps of one environment."""
    in_all: Money | None = None
    """`maximum_cost`: the same for all apps of the policy's environments."""
    runners: Positive | None = None
    """`maximum_runners`: the most that an app's max_concurrency may be."""


class Policy(Model):
    """A rule that every plan is held against. Exactly one of `rule` and `deny`."""

    rule: Annotated[str, *one_of(*RULES)] | None = None
    """A rule by its name."""
    parameters: PolicyParameters = PolicyParameters()
    """What the rule allows or asks for."""
    deny: Expression | None = Field(
        default=None,
        description="A rule of your own: an expression that is true for what is not allowed. If it names `app`, it is asked of every app "
        "that the spec has: `app.<setting>`, `app.name`, `app.environment`, `app.cost.max`; if it names `change`, of every change: "
        "`change.address`, `change.type`, `change.environment`, `change.actions`. Also in scope: `var`, `project`, `environments`.",
        examples=["{{ app.keep_alive > 3600 }}", "{{ change.environment == 'main' and 'delete' in change.actions }}"],
    )
    error: Text | None = None
    """What is said of what `deny` finds. Expressions in it see what `deny` sees."""
    environments: Annotated[list[Name] | None, BeforeValidator(lambda v: v if v is None else _names(v))] = None
    """Environments that it holds for; all by default."""
    level: Annotated[str, *one_of(*LEVELS)] = "mandatory"
    """`mandatory`: apply is refused, plan exits with 6. `advisory`: a warning."""
