"""Plans of every kind: one for each action by hand, and random ones. They are shown; nothing is decided about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from falplan.core.consequences import Consequence, Effect, NoPlace
from falplan.core.diff import ABSENT
from falplan.core.errors import Position
from falplan.core.plan import Action, AttributeChange, Change, Drift, Plan, Presence, Reason
from falplan.core.report import Report, Row, Section, Tone
from falplan.core.resources import ResourceType, type_of
from falplan.core.spec.resolved import Origin
from falplan.core.state import Recorded, State, operation_id
from falplan.core.values import Json, JsonObject
from tests.core.builders import LINEAGE

APP = "app.main.hello"
PLACE = Position("falplan.yaml", 12, 3)


def attribute(path: str, before: Any, after: Any, because: str = "", **more: Any) -> AttributeChange:
    """A difference at a path whose elements stand between slashes."""
    more.setdefault("origin", Origin.SPEC)
    return AttributeChange(tuple(path.split("/")), before, after, because, **more)


def change(action: Action, address: str = APP, because: str = "", *attributes: AttributeChange, **more: Any) -> Change:
    more.setdefault("operation", operation_id(LINEAGE, address, 1) if action.acts else "")
    for name, absent in (("before", Action.CREATE), ("after", Action.DELETE)):
        more.setdefault(name, None if action is absent else _side(attributes, name))
    return Change(address, type_of(address), action, because, attributes, **more)


def _side(attributes: Iterable[AttributeChange], name: str) -> JsonObject:
    result: JsonObject = {"endpoint": "acme/hello"}
    for a in attributes:
        value = getattr(a, name)
        if value is not ABSENT:
            inside: Any = result
            for key in a.path[:-1]:
                inside = inside.setdefault(key, {})
            inside[a.path[-1]] = value
    return result


def plan(*changes: Change, order: dict[str, tuple[str, ...]] | None = None, **more: Any) -> Plan:
    after = {c.address: () for c in changes if c.action.acts} if order is None else order
    return Plan("demo", LINEAGE, 4, {c.address: c for c in changes}, after, **more)


def only(action: Action, because: str = "its settings differ", *attributes: AttributeChange, **more: Any) -> Report:
    return Report(plan(change(action, APP, because, *attributes, **more)))


NOTHING = change(Action.NOOP)
SCALED = attribute("settings/max_concurrency", 2, 4, "updated in place")
POLICY = '{"rules": [{"allow": "GET", "of": "/"}], "owner": "acme", "version": 1}'
STRICTER = '{"owner": "acme", "rules": [{"allow": "GET", "of": "/health"}], "version": 1, "strict": true}'
SCRIPT = "\n".join(["#!/bin/sh", "set -eu", *(f"step {n}" for n in range(1, 9)), "exec serve --port 80"])
PRIOR = State(
    "demo",
    LINEAGE,
    4,
    {
        APP: Recorded(APP, "app", {"endpoint": "acme/hello", "settings": {"max_concurrency": 2}}, {}, ("gateway",), 3),
        "secret.main.TOKEN": Recorded(
            "secret.main.TOKEN",
            "secret",
            {"source": {"env": "TOKEN"}, "fingerprint": "b3beaedc:52dfa89d9c1f"},
            {},
            (),
            3,
        ),
    },
)
DRIFTED = {
    APP: Drift(
        APP,
        ResourceType.APP,
        Presence.PRESENT,
        "its settings were changed, some by an override",
        (
            attribute("settings/keep_alive", 10, 60, origin=None),
            attribute("settings/max_concurrency", 2, 9, "set by key ops", origin=None, override=True),
        ),
        since="2025-06-15T14:26:40Z",
        by="key ops",
    ),
    "app.main.gone": Drift("app.main.gone", ResourceType.APP, Presence.ABSENT, "the control plane does not know it"),
    "app.main.loud": Drift(
        "app.main.loud",
        ResourceType.APP,
        Presence.PRESENT,
        "",
        (attribute("settings/min_concurrency", 0, 1, origin=None),),
        ignored="drift.ignore: apps.*.min_concurrency",
    ),
}


def output(after: Json) -> JsonObject:
    """A new output as the section of outputs tells it."""
    marks: JsonObject = {"after_unknown": False, "before_sensitive": False, "after_sensitive": False}
    return {"actions": ["create"], "before": None, "after": after, **marks}


SECTIONS = (
    Section(
        "costs",
        "Costs",
        (
            Row("app.main.hello: $1.20/h -> $2.40/h", Tone.WARNING, ("2 x GPU-A100 in us-east at most",)),
            Row("in all: $2.40/h"),
        ),
        {"hourly": {"before": 1.2, "after": 2.4}},
    ),
    Section(
        "output_changes",
        "Changes to Outputs",
        (
            Row('+ url = "https://127.0.0.1:8443"'),
            Row("+ token = (sensitive value)"),
            Row("+ id = (known after apply)"),
        ),
        {
            "url": output("https://127.0.0.1:8443"),
            "token": {**output(None), "after_sensitive": True},
            "id": {**output(None), "after_unknown": True},
            "old": {**output(None), "actions": ["delete"], "before": 1},
        },
    ),
    Section(
        "findings",
        "What is held against this plan",
        (Row("Warning: falplan.yaml:3:1: regions: at least one", Tone.WARNING), Row("all policies hold", Tone.GOOD)),
        {"list": [{"source": "check", "name": "regions", "message": "at least one", "refuses": False, "detail": []}]},
    ),
)
SECRET = "secret.main.TOKEN"
HOSTILE = (
    "``` </details> <img src=x onerror=alert(1)> @everyone #1 \x1b[31m [a](javascript:b) | ~~~\n```\n</details>\n@all"
)

CASES: dict[str, Report] = {
    "create": Report(
        plan(
            change(
                Action.CREATE,
                APP,
                "it is new in the spec",
                attribute("endpoint", ABSENT, "acme/hello", origin=None),
                attribute("files/app.py", ABSENT, "7621adfcb37e1111", origin=None),
                attribute("settings/auth", ABSENT, "private", origin=Origin.DEFAULT),
                attribute("settings/keep_alive", ABSENT, 60, origin=Origin.CLASS),
                attribute("settings/max_concurrency", ABSENT, 2, origin=Origin.OVERLAY),
                attribute("settings/min_concurrency", ABSENT, 1),
                unknown=("revision",),
                dependencies=("gateway",),
                position=PLACE,
            )
        ),
        (Consequence(APP, Effect.LAUNCH, 1, "min_concurrency 1", "laptop (XS)"),),
        (NoPlace(APP, ("laptop: it has no GPU",), "Add a machine."),),
        observed={"gateway": "0" * 64},
    ),
    "update": only(Action.UPDATE, "its settings differ", SCALED, unchanged=24, outputs={"revision": "r-1"}),
    "new_revision": only(
        Action.UPDATE,
        "its settings differ",
        attribute("files/app.py", "7621adfcb37e1111", "52e63a66b3782222+x", "makes a new revision", origin=None),
        attribute("files/old.py", "7621adfcb37e1111", ABSENT, "makes a new revision", origin=None),
        unknown=("revision", "lock"),
        outputs={"revision": "r-0123456789ab", "lock": {"torch": "2.4.0", "fal": "1.0"}},
    ),
    "replace": only(
        Action.REPLACE,
        "",
        attribute("endpoint", "acme/hello", "umbrella/hello", "callers get 404", forces_replacement=True),
    ),
    "replace_create_first": only(
        Action.REPLACE_CREATE_FIRST,
        "it cannot be changed in place",
        attribute("endpoint", "acme/hello", "umbrella/hello", forces_replacement=True, origin=None),
    ),
    "replace_tainted": only(Action.REPLACE, "it is marked with `falplan taint`", reason=Reason.TAINTED),
    "replace_requested": only(Action.REPLACE, "", reason=Reason.REQUESTED),
    "delete": only(
        Action.DELETE, "it is no longer in the spec", before={"endpoint": "acme/hello", "kind": "fal"}, protected=True
    ),
    "forget": only(Action.FORGET, "`removed:` says so", before={"endpoint": "acme/hello"}),
    "read": only(Action.READ, "", reason=Reason.DEPENDENCY_PENDING, after={}),
    "nothing": Report(plan(NOTHING)),
    "move": only(Action.NOOP, "", previous_address="app.main.hi"),
    "import": only(Action.NOOP, "", importing="acme/hello"),
    "move_and_update": only(Action.UPDATE, "its settings differ", SCALED, previous_address="app.main.hi"),
    "import_and_update": only(Action.UPDATE, "its settings differ", SCALED, importing="acme/hello"),
    "drift": Report(
        plan(
            change(
                Action.UPDATE,
                APP,
                "its settings differ",
                attribute("settings/keep_alive", 60, 10),
                attribute("settings/max_concurrency", 9, 4),
                drift=DRIFTED[APP].attributes,
            ),
            drift=DRIFTED,
        )
    ),
    "refresh_only": Report(plan(NOTHING, drift=DRIFTED, refresh_only=True)),
    "unknown": Report(
        plan(NOTHING, unknown={APP: "lives on mars", SECRET: "unknown (source not here): TOKEN is not set"})
    ),
    "left_out": Report(
        plan(
            change(Action.UPDATE, APP, "its settings differ", SCALED),
            NOTHING_ELSE := change(Action.NOOP, "app.main.other"),
            left_out={"app.main.other": "it is not targeted"},
            hints=("app.main.hi may be app.main.hello: say so with `moved:`",),
        )
    ),
    "nothing_chosen": Report(plan(NOTHING_ELSE, left_out={"app.main.other": "it is not targeted"})),
    "sections": Report(plan(change(Action.UPDATE, APP, "its settings differ", SCALED)), sections=SECTIONS),
    "lines": only(
        Action.UPDATE,
        "its settings differ",
        attribute("settings/script", SCRIPT, SCRIPT.replace("step 5", "step five").replace("--port 80", "--port 81")),
        attribute("settings/note", ABSENT, "one\ntwo\n"),
    ),
    "json_strings": only(
        Action.UPDATE, "its settings differ", attribute("settings/policy", POLICY, STRICTER, "makes a new revision")
    ),
    "lists": only(
        Action.UPDATE,
        "its settings differ",
        attribute(
            "requirements", ["fal", "numpy", "torch==2.4.0", "uv"], ["fal", "numpy", "torch==2.5.1", "uv", "xformers"]
        ),
        attribute(
            "settings/mounts",
            [{"from": "a", "to": "/a"}, {"from": "b", "to": "/b"}],
            [{"from": "a", "to": "/a"}, {"from": "c", "to": "/b"}],
        ),
        attribute("settings/regions", None, ["here", "dc1"]),
    ),
    "secrets": Report(
        plan(
            change(
                Action.UPDATE,
                SECRET,
                "its value differs",
                attribute(
                    "fingerprint", "b3beaedc:52dfa89d9c1f", "b3beaedc:86292c0515f3", "the value differs", origin=None
                ),
                generation=4,
                unknown=("version",),
                outputs={"version": "1f0c"},
            ),
            change(
                Action.CREATE,
                "secret.main.STORED",
                "it is new in the spec",
                attribute("version", ABSENT, "77", origin=None),
            ),
            change(
                Action.UPDATE,
                APP,
                f"{SECRET} changes",
                secrets={SECRET: "b3beaedc:86292c0515f3"},
                rebuilt=True,
                unknown=("revision",),
            ),
            order={SECRET: (), "secret.main.STORED": (), APP: (SECRET, "secret.main.STORED")},
        )
    ),
    "wide": only(
        Action.UPDATE,
        "日本語の設定が変わりました " * 3,
        attribute("settings/名前", "見える" * 60, "見える" * 59 + "見えぬ"),
        attribute("settings/path", "/very" * 50 + "/one" + "/long" * 50, "/very" * 50 + "/two" + "/long" * 50),
    ),
    "hostile": Report(
        plan(
            change(Action.DELETE, "app.main.old", HOSTILE, before={"endpoint": HOSTILE}),
            change(
                Action.UPDATE,
                APP,
                HOSTILE,
                attribute(f"settings/{HOSTILE.replace('/', '')}", HOSTILE, HOSTILE * 2, HOSTILE),
            ),
            hints=(HOSTILE,),
        ),
        sections=(Section("costs", HOSTILE, (Row(HOSTILE, Tone.ERROR, (HOSTILE, "```")),)),),
    ),
    "several": Report(
        plan(
            change(Action.CREATE, "app.staging.hello", "it is new in the spec"),
            change(Action.CREATE, "build.staging.hello", "it is new in the spec"),
            change(Action.DELETE, "app.main.old", "it is no longer in the spec"),
            change(Action.UPDATE, APP, f"{SECRET} changes"),
            change(Action.UPDATE, SECRET, "its value differs"),
            change(Action.UPDATE, "gateway", "it is stopped: it is started again"),
            change(Action.REPLACE, "app.staging.two", "it cannot be changed in place"),
            change(Action.NOOP, "app.main.same"),
            order={
                "gateway": (),
                "app.main.old": ("gateway",),
                SECRET: ("gateway",),
                APP: (SECRET, "gateway"),
                "build.staging.hello": ("gateway",),
                "app.staging.hello": ("build.staging.hello", "gateway", SECRET),
                "app.staging.two": ("gateway",),
            },
        )
    ),
}
"""Name -> a report that has what the name says."""


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.sampled_from(["a", "settings", "keep_alive", "名前", "with space", "`", "x" * 50]) | TEXT
JSON: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.lists(st.sampled_from(["one", "two", "", "x" * 90, "\x1b[2J"]), max_size=5).map("\n".join)
    | st.sampled_from([POLICY, STRICTER, "[1, 2]", "[1,2]", "{", HOSTILE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3)
ADDRESSES = st.builds(
    lambda kind, environment, name: f"{kind}.{environment}.{name}",
    st.sampled_from(["app", "build", "secret"]),
    st.sampled_from(["main", "staging"]),
    st.sampled_from(["one", "two", "three", "a-long-name-of-an-app-that-does-much"]),
) | st.just("gateway")
SIDES = st.just(ABSENT) | JSON
ATTRIBUTES = st.builds(
    AttributeChange,
    st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    SIDES,
    SIDES,
    TEXT,
    st.none() | st.sampled_from(Origin),
    st.booleans(),
)
POSITIONS = st.none() | st.builds(Position, TEXT, st.integers(1, 9), st.integers(1, 9))


def _change_at(address: str) -> st.SearchStrategy[Change]:
    return st.builds(
        Change,
        st.just(address),
        st.just(type_of(address)),
        st.sampled_from(Action),
        TEXT,
        st.lists(ATTRIBUTES, max_size=3).map(tuple),
        st.lists(ATTRIBUTES, max_size=1).map(tuple),
        st.none() | OBJECTS,
        st.none() | OBJECTS,
        OBJECTS,
        st.lists(NAMES, max_size=2, unique=True).map(tuple),
        st.integers(0, 3),
        st.lists(ADDRESSES, max_size=2).map(tuple),
        st.integers(1, 5),
        TEXT,
        POSITIONS,
        st.dictionaries(ADDRESSES, TEXT, max_size=2),
        st.booleans(),
        st.none() | st.sampled_from(Reason),
        st.just("") | st.just("app.main.before"),
        st.just("") | st.just("acme/there"),
        st.booleans(),
    )


def _drift_at(address: str) -> st.SearchStrategy[Drift]:
    found = st.lists(ATTRIBUTES, max_size=2).map(tuple)
    return st.builds(
        Drift, st.just(address), st.just(type_of(address)), st.sampled_from(Presence), TEXT, found, TEXT, TEXT, TEXT
    )


REASONS = st.dictionaries(ADDRESSES, TEXT, max_size=3)
ROWS = st.lists(st.builds(Row, TEXT, st.sampled_from(Tone), st.lists(TEXT, max_size=2).map(tuple)), max_size=2).map(
    tuple
)
SECTION_LISTS = st.lists(
    st.builds(Section, st.sampled_from(["costs", "placement", "policies"]), TEXT, ROWS, OBJECTS),
    max_size=2,
    unique_by=lambda s: s.name,
).map(tuple)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan: its operations are those that act, as every plan's are."""
    addresses = draw(st.lists(ADDRESSES, unique=True, max_size=4))
    changes = {a: draw(_change_at(a)) for a in addresses}
    acting = [a for a in addresses if changes[a].action.acts]
    order = {a: tuple(acting[:i]) if draw(st.booleans()) else () for i, a in enumerate(acting)}
    drift = {a: draw(_drift_at(a)) for a in draw(st.lists(ADDRESSES, unique=True, max_size=2))}
    unknown, left_out = draw(REASONS), draw(REASONS)
    hints = draw(st.lists(TEXT, max_size=1).map(tuple))
    return Plan(
        "demo", LINEAGE, draw(st.integers(0, 9)), changes, order, unknown, drift, left_out, draw(st.booleans()), hints
    )


REPORTS = st.builds(
    Report,
    plans(),
    st.lists(st.builds(Consequence, ADDRESSES, st.sampled_from(Effect), st.integers(1, 3), TEXT, TEXT), max_size=2).map(
        tuple
    ),
    st.lists(st.builds(NoPlace, ADDRESSES, st.lists(TEXT, max_size=2).map(tuple), TEXT), max_size=1).map(tuple),
    SECTION_LISTS,
    st.dictionaries(ADDRESSES, TEXT, max_size=2),
)
