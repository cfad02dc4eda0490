"""Whatever bytes come in, a spec or SpecInvalid comes out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falplan.core.errors import SpecInvalid
from falplan.stores.spec import load_spec
from falplan.views.diagnostics import render

SEED = Path(__file__).parents[3].joinpath("examples/reference.yaml").read_text()
PIECES = [
    ":", "-", "[", "]", "{", "}", "&a", "*a", "!", "!!str", "|", ">", "'", '"', "#", "%", "@", "`", "? ", "<<: ", "---", "...",
    "\n", "  ", "\t", "\r", "null", "~", "true", "0644", "1e999", ".nan", "version: 1", "apps:", "é", "\ufeff", "\x00", "\u2028", "{{", "}}",
]  # fmt: skip

EXAMPLES = settings().max_examples


def survives(content: bytes) -> None:
    """Load the bytes as a spec, and print what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "falplan.yaml").write_bytes(content)
        try:
            load_spec(Path(folder))
        except SpecInvalid as exc:
            for layout in ("human", "json", "github"):
                shown = render(exc.diagnostics, format=layout)
                assert all(char == "\n" or char.isprintable() for char in shown)
            assert all(d.message and d.code and (d.position or d.file) for d in exc.diagnostics)


@settings(max_examples=EXAMPLES * 3 // 2)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    survives(content)


@settings(max_examples=EXAMPLES * 3 // 2)
@given(st.text(max_size=200))
def test_any_text(content: str) -> None:
    survives(content.encode("utf-8", "surrogatepass"))


@settings(max_examples=EXAMPLES * 2)
@given(st.lists(st.sampled_from([p for p in PIECES if p != "{{"]), max_size=30).map("".join))
def test_any_mixture_of_yaml(content: str) -> None:
    survives(b"version: 1\nproject: demo\n" + content.encode())


@settings(max_examples=EXAMPLES * 3 // 2)
@given(st.data())
def test_any_mutation_of_a_spec(data: st.DataObject) -> None:
    text = SEED.replace("{{", "<").replace("}}", ">")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.sampled_from(PIECES[:-2])) + text[at + length :]
    survives(text.encode())


VALUES = [
    "1",
    "-1",
    "x",
    '"x"',
    "[]",
    "{}",
    "[a, {b: c}]",
    "{a: [b]}",
    "null",
    "true",
    "1e999",
    "0644",
    "*x",
    "''",
    "!!str 1",
    '"\\u0000"',
]
KEYS = [
    "version",
    "project",
    "owner",
    "variables",
    "state",
    "gateway",
    "regions",
    "machine_types",
    "environments",
    "apps",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
def test_any_value_of_any_section(key: str, value: str) -> None:
    others = "".join(f"{k}: {v}\n" for k, v in (("version", "1"), ("project", "demo")) if k != key)
    survives(f"{others}{key}: {value}\n".encode())
    survives(f"{others}{key}: {{a: {value}}}\n".encode())
    survives(
        f"{others}{key}: {{a: {{provider: {value}, apps: {value}, app: {value}, for_each: {value}, type: int}}}}\n".encode()
    )


@pytest.mark.parametrize("value", VALUES)
def test_any_value_of_any_setting(value: str) -> None:
    from falplan.core.spec.models import AppModel

    for key in AppModel.model_fields:
        survives(f"version: 1\nproject: demo\napps:\n  a:\n    command: x\n    {key}: {value}\n".encode())
        survives(
            f"version: 1\nproject: demo\napps: {{a: {{command: x}}}}\nenvironments: {{e: {{apps: {{a: {{{key}: {value}}}}}}}}}\n".encode()
        )


def test_a_secret_in_a_wrong_place_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(
        "version: 1\nproject: demo\napps:\n  a:\n    command: x\n    environment_variables: [hunter2canary]\n"
    )

    with pytest.raises(SpecInvalid) as caught:
        load_spec(tmp_path)

    assert "hunter2canary" not in caught.value.diagnostics[0].message
