"""Templates are rendered after parsing, in bounds, and see nothing but their scope."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falplan.core.errors import SpecInvalid
from falplan.core.spec.codes import Code
from falplan.core.spec.tree import Map, Scalar, Seq, json_value
from falplan.core.values import Json
from falplan.stores.spec.compose import compose
from falplan.stores.spec.findings import Findings, Source, Stop
from falplan.stores.spec.template import Renderer, Scope

HOSTILE = [
    "\n",
    ": ",
    "#",
    "*a",
    "&a",
    "---",
    "'",
    '"',
    "{{ var.x }}",
    "{% if %}",
    "\\",
    "\r\n",
    "- ",
    "!!str",
    "\x85",
    "\u2028",
    "null",
    "<<",
    "}}",
]


def parsed(text: str) -> tuple[Map, Findings]:
    """The tree of a text."""
    findings = Findings()
    source = Source("spec.yaml", text)
    findings.sources["spec.yaml"] = source
    tree = compose(source, findings)
    assert isinstance(tree, Map)
    return tree, findings


def rendered(template: str, values: dict[str, Json] | None = None) -> Json:
    """The value that a leaf with the template gets."""
    tree, findings = parsed("x: |-\n  " + template.replace("\n", "\n  "))
    with Renderer(findings) as renderer:
        result = renderer.tree(tree, Scope.of(values or {}))
    findings.raise_if_failed()
    assert isinstance(result, Map)
    return json_value(result)["x"]  # type: ignore[index,call-overload]  # a mapping gives a mapping


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ 1 + 1 }}", 2),
        ("{{ 1 + 1 }} ", "2 "),
        ("a{{ 1 }}", "a1"),
        ("{{ 1 }}{{ 2 }}", "12"),
        ("{{ 'x' }}", "x"),
        ("{{ '7' }}", "7"),
        ("{{ true }}", True),
        ("{{ 0.5 }}", 0.5),
        ("{{ [1] }}", "[1]"),
        ("{{ none }}", "None"),
        ("{{ var.items }}", 3),
        ("{{ nope | default('d') }}", "d"),
        ("{{ 'y' if nope is defined else 'n' }}", "n"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ '{{' }}", "{{"),
    ],
)
def test_one_expression_keeps_its_type_and_all_else_is_text(template: str, value: Json) -> None:
    assert rendered(template, {"var": {"items": 3}}) == value


def test_no_child_starts_without_a_template() -> None:
    tree, findings = parsed("a: b\nc: [d]\n")

    with Renderer(findings) as renderer:
        assert renderer.tree(tree, Scope.of({})) is tree
        assert renderer.sandbox.child is None


def test_the_child_is_gone_afterwards() -> None:
    """Seen red with a renderer that did not end its child."""
    tree, findings = parsed('a: "{{ 1 }}"\n')

    with Renderer(findings) as renderer:
        renderer.tree(tree, Scope.of({}))
        child = renderer.sandbox.child

    assert child is not None
    assert child.poll() is not None


def test_the_environment_of_the_process_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "tweet")

    with pytest.raises(SpecInvalid):
        rendered("{{ ''.__class__.__mro__ }}")
    with pytest.raises(SpecInvalid):
        rendered("{{ range.__globals__ }}")
    with pytest.raises(SpecInvalid):
        rendered("{{ self.__init__.__globals__ }}")


def test_an_attribute_by_a_filter_is_nothing() -> None:
    assert rendered("{{ [1]|map(attribute='__class__')|list }}") == "[Undefined]"


ESCAPES = [
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ ().__class__.__bases__[0] }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id') }}",
    "{{ ''|attr('__class__') }}",
    "{{ '%s'.__format__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ dict.__mro__ }}",
    "{{ dict.mro() }}",
    "{{ (1).__class__ }}",
    "{{ var.x.__class__ }}",
    "{{ range(1).__reduce__() }}",
    "{{ [].append.__self__.__class__ }}",
    "{{ ['__class__']|map('attr', '__class__')|list }}",
    "{% set x = ''.__class__ %}{{ x }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{{ m() }}",
    "{{ config }}",
    "{{ request }}",
    "{{ loop }}",
    "{{ self._TemplateReference__context }}",
    "{{ [].append(1) }}",
    "{{ {}.update({'a': 1}) }}",
    "{{ var.update({'a': 1}) }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_the_sandbox_holds(template: str) -> None:
    with pytest.raises(SpecInvalid):
        rendered(template, {"var": {"x": 1}})


@pytest.mark.parametrize(
    "template",
    [
        "{{ 9**(9**9) }}",
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ '%1000000000d' % 1 }}",
        "{% set ns = dict(a='a') %}{% for i in range(60) %}{% for j in range(99999) %}{% for k in range(99999) %}{{ k }}{% endfor %}{% endfor %}{% endfor %}",
        "{{ range(99999)|map('string')|join('x' * 5000)|length }}",
    ],
)
def test_a_greedy_template_ends_soon(template: str) -> None:
    """Seen red with a child without a bound on its processor time and a parent without one on its waiting."""
    begun = time.monotonic()

    with contextlib.suppress(Stop, SpecInvalid):  # some end by themselves, within bounds
        rendered(template)

    assert time.monotonic() - begun < 8


def test_a_template_that_wants_too_much_memory_is_refused() -> None:
    """Seen red with a child without a bound on its memory."""
    with pytest.raises(SpecInvalid) as raised:
        rendered("{{ ('a' * 5 * 10**8)|length }}")

    assert [d.code for d in raised.value.diagnostics] == [Code.EXHAUSTED]


def test_after_a_greedy_template_others_have_no_child_left_behind() -> None:
    """Seen red with an exhausted child that was not ended."""
    tree, findings = parsed('a: "{{ 9**(9**9) }}"\n')

    with Renderer(findings) as renderer:
        with pytest.raises(Stop):
            renderer.tree(tree, Scope.of({}))

        assert renderer.sandbox.child is None


def test_the_place_of_a_fault_is_that_of_its_own_braces() -> None:
    tree, findings = parsed('a: "{{ 1 }} and {{ nope }}"\nb:\n  - "é {{ nope2 }}"\n')

    with Renderer(findings) as renderer:
        renderer.tree(tree, Scope.of({}))

    assert [str(d.position) for d in findings.sorted()] == ["spec.yaml:1:17", "spec.yaml:3:8"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=5)), max_size=6).map("".join))
def test_a_rendered_text_never_changes_the_shape(value: str, renderer_of_all: Renderer) -> None:
    tree, _ = parsed('a: {b: "{{ var.x }}", c: [1, "x{{ var.x }}y"]}\nd: e\n')
    value = value.encode("utf-8", "replace").decode()

    result = renderer_of_all.tree(tree, Scope.of({"var": {"x": value}}))

    assert isinstance(result, Map)
    assert json_value(result) == {"a": {"b": value, "c": [1, f"x{value}y"]}, "d": "e"}
    assert isinstance(result["a"], Map)
    assert isinstance(result["a"]["b"], Scalar)
    assert isinstance(result["a"]["c"], Seq)


@pytest.fixture(scope="module")
def renderer_of_all() -> Iterator[Renderer]:
    """One child for all examples."""
    with Renderer(Findings()) as renderer:
        yield renderer


def test_the_parents_own_work_is_not_counted_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a wait that was measured from the renderer's first question on."""
    tree, findings = parsed('a: "{{ 1 }}"\nb: "{{ 2 }}"\n')

    with Renderer(findings) as renderer:
        renderer.tree(tree["a"], Scope.of({}))
        later = time.monotonic() + 60
        with monkeypatch.context() as patch:
            patch.setattr("falplan.stores.spec.sandbox.monotonic", lambda: later)
            assert renderer.tree(tree["b"], Scope.of({})) == "2"


def test_many_leaves_are_rendered_in_one_child() -> None:
    tree, findings = parsed("".join(f'k{n}: "{{{{ {n} + 1 }}}}"\n' for n in range(2000)))

    with Renderer(findings) as renderer:
        result = renderer.tree(tree, Scope.of({}))

    assert isinstance(result, Map)
    assert json_value(result) == {f"k{n}": n + 1 for n in range(2000)}
