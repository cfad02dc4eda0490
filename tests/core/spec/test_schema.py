"""The schema, the reference and the example that names every key follow the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from falplan.core.spec.fields import APP_FIELDS
from falplan.core.spec.meanings import meanings
from falplan.core.spec.model import keys_of
from falplan.core.spec.models import LATER, SECTIONS, AppModel, Settings, SpecModel
from falplan.core.spec.resolved import Origin
from falplan.core.spec.schema import spec_schema
from falplan.core.spec.tree import Map, Node, json_value
from falplan.stores.spec import load_spec
from falplan.stores.spec.compose import compose
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.read import read_source
from falplan.views.reference import spec_reference

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "examples/reference.yaml"


def parsed(path: Path) -> Map:
    """The tree of a file."""
    findings = Findings()
    tree = compose(read_source(path, path.name, findings), findings)
    assert isinstance(tree, Map)
    return tree


def test_the_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "schemas/spec.json").read_text())

    assert committed == json.loads(json.dumps(spec_schema())), "run: falplan schema spec > schemas/spec.json"


def test_the_committed_reference_is_current() -> None:
    assert (ROOT / "docs/reference/spec.md").read_text() == spec_reference()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(spec_schema())


def test_the_reference_example_fits_the_schema() -> None:
    jsonschema.Draft202012Validator(spec_schema()).validate(json_value(parsed(REFERENCE)))


@pytest.mark.parametrize(
    "spec",
    [
        {"project": "demo"},
        {"version": 2, "project": "demo"},
        {"version": 1, "project": "demo", "apps": {"a": {}}},
        {"version": 1, "project": "demo", "apps": {"a": {"app": "a.py::A", "command": "x"}}},
        {"version": 1, "project": "demo", "apps": {"a": {"app": "a.py::A", "keep_alive": "1:30"}}},
        {"version": 1, "project": "demo", "apps": {"a": {"app": "a.py::A", "min_concurency": 1}}},
        {"version": 1, "project": "demo", "regions": {"a": {"provider": "aws"}}},
        {"version": 1, "project": "demo", "environments": {"a": {"apps": "some"}}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(spec: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(spec_schema()).validate(spec)


def test_the_reference_example_loads() -> None:
    spec = load_spec(ROOT / "examples", REFERENCE)

    assert [app.address for app in spec.apps if app.environment == "staging"] == [
        "app.staging.text-to-image",
        "app.staging.web",
    ]
    assert spec.apps[0].settings["max_concurrency"].value == 4
    assert not spec.warnings


def test_the_reference_example_names_every_key() -> None:
    tree = parsed(REFERENCE)
    written = set(_keys(tree))
    known = {key for model in SECTIONS.values() for key in keys_of(model)}

    # One gateway can't be both, and a state is in one place: what names the others stands there as a comment.
    others = {"host", "url", "ca", "bucket", "dsn", "table"}
    assert known - written == others
    assert all(f"# {key}: " in REFERENCE.read_text() for key in (*others, "key", "image", "profile"))


def _keys(node: Node) -> list[str]:
    if isinstance(node, Map):
        return [*node, *(key for child in node.values() for key in _keys(child))]
    return [key for child in node for key in _keys(child)] if isinstance(node, list) else []


def test_every_key_has_a_meaning() -> None:
    missing = [
        f"{section}.{f.alias or key}"
        for section, model in SECTIONS.items()
        for key, f in model.model_fields.items()
        if not (f.description or meanings(model).get(f.alias or key))
    ]

    assert missing == []


def test_the_settings_are_those_of_the_platform_with_its_defaults() -> None:
    assert set(Settings.model_fields) == set(APP_FIELDS)
    assert {name: f.default for name, f in Settings.model_fields.items()} == {
        n: f.default for n, f in APP_FIELDS.items()
    }


def test_a_key_is_never_both_known_and_refused() -> None:
    for section, keys in LATER.items():
        assert not set(keys) & set(keys_of(SECTIONS[section]))


def test_the_models_take_plain_values() -> None:
    model = SpecModel.model_validate(
        {"version": 1, "project": "demo", "apps": {"a": {"command": ["x"], "keep_alive": "1m"}}}
    )

    assert isinstance(model.apps["a"], AppModel)
    assert model.apps["a"].keep_alive == 60
    assert Origin.OVERLAY > Origin.CLASS
