"""Reads what a fal.App says of itself from its source. Never runs it; knows nothing of the spec."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.values import Json
from falplan.stores.spec.findings import Findings, Source

ALIASES = {"app_auth": "auth"}
FILES = ("app_files", "app_files_ignore", "app_files_context_dir")
LATER = (
    "requirements_context_dir", "local_python_modules", "metrics_port", "kind", "data_mounts", "retry_config",
    "host_kwargs", "resolver", "_scheduler", "_scheduler_options", "local_file_path", "isolate_channel", "private_logs",
)  # fmt: skip
REFUSED = ("image",)
OWN = frozenset(("app_name", "name"))
SETTINGS = frozenset(name for name, known in APP_FIELDS.items() if known.class_attribute) | frozenset(ALIASES)
KNOWN = SETTINGS | frozenset(FILES) | frozenset(LATER) | frozenset(REFUSED) | OWN


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that the source states, and where."""

    value: Json
    position: Position


@dataclass(slots=True)
class ClassFacts:
    """What one class says. `unread` holds the settings whose value only running it would tell."""

    position: Position
    values: dict[str, Literal] = field(default_factory=dict)
    unread: dict[str, Position] = field(default_factory=dict)


class Unreadable(Exception):
    """The expression has no value without running it."""


@dataclass(slots=True)
class Module:
    """A parsed source file: its classes and the literals that it gives names to."""

    source: Source
    tree: ast.Module
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    literals: dict[str, ast.expr] = field(default_factory=dict)


def parse_module(source: Source, findings: Findings) -> Module | None:
    """The module, or None after noting where its syntax is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the author sees Python's own warnings when the app runs
            tree = ast.parse(source.text, filename=source.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        line = (exc.lineno if isinstance(exc, SyntaxError) else 1) or 1
        column = (exc.offset if isinstance(exc, SyntaxError) else 1) or 1
        reason = exc.msg if isinstance(exc, SyntaxError) else "can't be parsed"
        findings.add(Code.APP_SOURCE, f"Python syntax: {reason}", Position(source.name, line, max(1, column)))
        return None
    module = Module(source, tree)
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            module.classes[statement.name] = statement
        for name, value in _assigned(statement):
            module.literals[name] = value
    return module


def read_class(module: Module, name: str, findings: Findings) -> ClassFacts:
    """What the class and its base classes in the same file say. Warns of what is misspelt or not supported."""
    facts = ClassFacts(_place(module, module.classes[name]))
    for definition in reversed(_lineage(module, name, findings)):
        for attribute, value, where in _attributes(definition):
            _take(module, facts, attribute, value, _place(module, where), findings)
        _health_check(module, facts, definition, findings)
    return facts


def _lineage(module: Module, name: str, findings: Findings) -> list[ast.ClassDef]:
    """The class and its local bases, the class first; each once."""
    order: list[ast.ClassDef] = []
    waiting = [name]
    while waiting:
        definition = module.classes.get(waiting.pop(0))
        if definition is None or definition in order:
            continue
        order.append(definition)
        for base in definition.bases:
            if isinstance(base, ast.Name) and base.id in module.classes:
                waiting.append(base.id)
            elif not _is_app(module, base):
                shown = ast.unparse(base)
                message = f"the base class {shown} is not in this file; what it sets is not read"
                findings.warn(
                    Code.CLASS_ATTRIBUTE, message, _place(module, base), hint="set it in the spec or in the class"
                )
    return order


def _is_app(module: Module, base: ast.expr) -> bool:
    if isinstance(base, ast.Attribute):
        return base.attr == "App"
    if not isinstance(base, ast.Name):
        return False
    imports = (s for s in module.tree.body if isinstance(s, ast.ImportFrom) and (s.module or "").split(".")[0] == "fal")
    named = ((alias.asname or alias.name, alias.name) for statement in imports for alias in statement.names)
    return (base.id, "App") in named or base.id in ("object", "ABC")


def _attributes(definition: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.AST]]:
    for keyword in definition.keywords:
        if keyword.arg and keyword.arg != "metaclass":
            yield keyword.arg, keyword.value, keyword
    for statement in definition.body:
        for name, value in _assigned(statement):
            yield name, value, statement


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
    elif (
        isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None
    ):
        yield statement.target.id, statement.value


def _take(module: Module, facts: ClassFacts, name: str, value: ast.expr, where: Position, findings: Findings) -> None:
    if name in REFUSED:
        hint = "remove it, or run the server with `command:`"
        findings.add(
            Code.UNSUPPORTED, f"this version of falplan does not support the class attribute `{name}`", where, hint=hint
        )
    elif name in LATER:
        findings.warn(
            Code.CLASS_ATTRIBUTE, f"this version of falplan does not support the class attribute `{name}`", where
        )
    elif name in SETTINGS or name in FILES or name in OWN:
        _keep(module, facts, ALIASES.get(name, name), value, where)
    else:
        close = difflib.get_close_matches(name, sorted(KNOWN), n=1, cutoff=0.85)
        if close:
            message = f"the class attribute `{name}` has no meaning"
            findings.warn(Code.CLASS_ATTRIBUTE, message, where, hint=f"did you mean `{close[0]}`?")


def _keep(module: Module, facts: ClassFacts, name: str, value: ast.expr, where: Position) -> None:
    facts.values.pop(name, None)
    facts.unread.pop(name, None)
    try:
        found = literal(value, module)
    except Unreadable:
        facts.unread[name] = where
        return
    if found is not None:  # fal reads None as unset
        facts.values[name] = Literal(found, where)


def literal(node: ast.expr, module: Module, depth: int = 0) -> Json:
    """The value of an expression made of literals and of names that the module gives to literals.

    Raises:
        Unreadable: for anything else.
    """
    if depth > 50:
        raise Unreadable
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            value: Json = node.value  # type: ignore[assignment]  # the pattern leaves out bytes, complex and Ellipsis
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return _items(items, module, depth)
        case ast.Dict(keys=keys, values=values):
            return _pairs(keys, values, module, depth)
        case ast.Name(id=name) if name in module.literals:
            return literal(module.literals[name], module, depth + 1)
        case _:
            return _computed(node, module, depth)


def _items(items: list[ast.expr], module: Module, depth: int) -> Json:
    found: list[Json] = []
    for item in items:
        if isinstance(item, ast.Starred):
            inner = literal(item.value, module, depth + 1)
            if not isinstance(inner, list):
                raise Unreadable
            found += inner
        else:
            found.append(literal(item, module, depth + 1))
    return found


def _pairs(keys: list[ast.expr | None], values: list[ast.expr], module: Module, depth: int) -> Json:
    found: dict[str, Json] = {}
    for key, value in zip(keys, values, strict=True):
        name = literal(key, module, depth + 1) if key is not None else None
        if not isinstance(name, str):
            raise Unreadable
        found[name] = literal(value, module, depth + 1)
    return found


def _computed(node: ast.expr, module: Module, depth: int) -> Json:
    """Signs, and sums and products of numbers such as `10 * 60`, which everybody writes for seconds."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = literal(node.operand, module, depth + 1)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = literal(node.left, module, depth + 1), literal(node.right, module, depth + 1)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in (left, right))
        if numbers:
            return left + right if isinstance(node.op, ast.Add) else left * right  # type: ignore[operator]  # both are numbers
    raise Unreadable


def _health_check(module: Module, facts: ClassFacts, definition: ast.ClassDef, findings: Findings) -> None:
    for statement in definition.body:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in statement.decorator_list:
            if isinstance(decorator, ast.Call) and _called(decorator) == "endpoint":
                _endpoint_check(module, facts, decorator, findings)


def _called(call: ast.Call) -> str:
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )


def _endpoint_check(module: Module, facts: ClassFacts, decorator: ast.Call, findings: Findings) -> None:
    given = {keyword.arg: keyword.value for keyword in decorator.keywords if keyword.arg}
    check = given.get("health_check")
    if check is None or (isinstance(check, ast.Constant) and check.value is None):
        return
    where = _place(module, check)
    path = decorator.args[0] if decorator.args else given.get("path")
    try:
        if path is None or not isinstance(check, ast.Call) or _called(check) != "HealthCheck" or check.args:
            raise Unreadable
        value: dict[str, Json] = {"path": literal(path, module), "method": "POST"}
        for keyword in check.keywords:
            if keyword.arg is None:
                raise Unreadable
            value[keyword.arg] = literal(keyword.value, module)
    except Unreadable:
        facts.unread["health_check"] = where
        return
    if value.pop("start_period_seconds", None) is not None:
        message = "this version of falplan does not support `start_period_seconds`; `startup_timeout` bounds the start"
        findings.warn(Code.CLASS_ATTRIBUTE, message, where)
    facts.values["health_check"] = Literal(value, where)


def _place(module: Module, node: ast.AST) -> Position:
    """Python counts columns in UTF-8 bytes, positions count characters."""
    line, offset = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    before = module.source.line(line).encode()[:offset].decode("utf-8", "ignore")
    return Position(module.source.name, line, len(before) + 1)
