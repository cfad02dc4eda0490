"""Gives each variable of a spec its value. Knows nothing of templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.models import Variable
from falplan.core.spec.tree import Map, Node, Scalar, Seq, at
from falplan.core.spec.types import boolean, number, text, whole
from falplan.core.spec.words import did_you_mean, quoted
from falplan.core.values import Json
from falplan.stores.spec.compose import compose
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.read import read_source
from falplan.stores.spec.validate import validate

_LARGEST = 1e308
READERS: dict[str, Any] = {
    "str": text,
    "int": whole(-(2**53) + 1),
    "float": number(-_LARGEST, _LARGEST),
    "bool": boolean,
}


def variable_values(
    declared: Map | None,
    given: Mapping[str, str],
    files: Sequence[Path],
    environ: Mapping[str, str],
    findings: Findings,
) -> dict[str, Json]:
    """name -> value: what was given, else a file's (the last wins), else the environment's, else the default."""
    models = _declared(declared, findings)
    from_files = _from_files(files, models, findings)
    for name in given:
        if name not in models:
            findings.add(Code.VARIABLE, f"no variable {quoted(name)}", file="--var", hint=did_you_mean(name, models))
    values: dict[str, Json] = {}
    for name, (key, variable) in models.items():
        source = _source(name, variable, given, from_files, environ)
        if source is None:
            findings.add(Code.VARIABLE, f"variable {quoted(name)} has no value", key, hint=_how(name, variable))
            continue
        value, place, origin = source
        _convert(name, variable, value, place or at(key.start), origin, values, findings)
    return values


def _declared(declared: Map | None, findings: Findings) -> dict[str, tuple[Scalar, Variable]]:
    models: dict[str, tuple[Scalar, Variable]] = {}
    for name, body in (declared or {}).items():
        assert declared is not None  # noqa: S101 - it has items
        key = declared.keys_at[name]
        if not (name.isidentifier() and name.isascii()):
            findings.add(
                Code.NAME, f"bad name of a variable {quoted(name)}", key, hint="letters, digits and underscore"
            )
        elif not isinstance(body, Map):
            findings.add(Code.SHAPE, "expected a mapping such as {type: str, default: v1}", body)
        else:
            model = validate(Variable, body, findings, section="variables", owner=key)
            if model is not None:
                models[name] = (key, model)
    return models


def _from_files(
    files: Sequence[Path], models: Mapping[str, tuple[Scalar, Variable]], findings: Findings
) -> dict[str, tuple[Node, Position]]:
    values: dict[str, tuple[Node, Position]] = {}
    for path in files:
        try:
            tree = compose(read_source(path, str(path), findings), findings)
        except Stop:
            continue
        if tree is None:
            continue
        if not isinstance(tree, Map):
            findings.add(Code.SHAPE, "expected a mapping of variables to values", Position(str(path), 1, 1))
            continue
        for name, value in tree.items():
            if name not in models:
                findings.add(
                    Code.VARIABLE, f"no variable {quoted(name)}", tree.keys_at[name], hint=did_you_mean(name, models)
                )
            else:
                values[name] = (value, at(value.start))
    return values


def _source(
    name: str,
    variable: Variable,
    given: Mapping[str, str],
    from_files: Mapping[str, tuple[Node, Position]],
    environ: Mapping[str, str],
) -> tuple[Any, Position | None, str] | None:
    if name in given:
        return given[name], None, "--var"
    if name in from_files:
        return *from_files[name], ""
    if variable.env and variable.env in environ:
        return environ[variable.env], None, variable.env
    if variable.default is not None:
        place = at(variable.default.start) if isinstance(variable.default, Scalar | Seq | Map) else None
        return variable.default, place, ""
    return None


def _how(name: str, variable: Variable) -> str:
    return f"give it with --var {name}=…" + (f", or set {variable.env}" if variable.env else ", or add a default")


def _convert(
    name: str, variable: Variable, value: Any, place: Position, origin: str, values: dict[str, Json], findings: Findings
) -> None:
    if origin and variable.type != "str":
        value = _unquoted(str(value))
    try:
        values[name] = READERS[variable.type](value)
    except PydanticCustomError as exc:
        context = exc.context or {}
        where = f" (from {origin})" if origin else ""
        message = f"variable {quoted(name)}{where}: {context.get('text', '')}"
        findings.add(Code.VARIABLE, message, place, hint=str(context.get("hint", "")))


def _unquoted(value: str) -> Scalar:
    """Text of a command line or environment, read as a bare YAML scalar is."""
    leaf = Scalar(value)
    leaf.plain = True
    return leaf
