"""The child process that renders templates within limits of time and memory. Knows templates and scopes, nothing of specs.

Reads one JSON object a line, `{"template": …, "scope": {…}}` (without a scope, the one before counts), and answers each
with one line: `{"value": …}` or `{"error": KIND, "message": …, "name": …, "offset": …, "line": …}`. With `"names": true` nothing
is evaluated, and the answer is `{"names": [[…], …]}`: what the template reads of its scope, each as the path to it.
"""

from __future__ import annotations

import json
import math
import re
import resource
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2.debug  # noqa: F401 - loaded before memory is bounded
from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU = 2
MEMORY = 256 * 2**20
OUTPUT = 2**20
GLOBALS = ("range", "dict")
REMOVED_FILTERS = ("attr", "random", "pprint", "xmlattr", "urlize")
BLOCKED: tuple[type[nodes.Node], ...] = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_UNDEFINED = re.compile(r"^'([^']+)' is undefined|has no attribute '([^']+)'|has no element '?([^']+?)'?$")


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, where a mapping's own keys come before its methods."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def make_environment() -> Environment:
    """Strict, without loader, with nothing that depends on chance or reaches for attributes."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    kept = {name: environment.globals[name] for name in GLOBALS}
    environment.globals.clear()
    environment.globals.update(kept)
    for name in REMOVED_FILTERS:
        environment.filters.pop(name, None)
    return environment


def bound_time(seconds: int) -> None:
    """Let this process use at most that much more processor time, rounded up to whole seconds; it is killed beyond."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(
        resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, resource.RLIM_INFINITY)
    )


def bound_memory() -> None:
    """Let this process use 256 MiB beyond what it has now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return  # no Linux: the wall clock and the processor's time still bound it
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def answer(environment: Environment, template: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Render one template, or say why not."""
    try:
        value = _render(environment, template, scope)
    except TemplateSyntaxError as exc:
        return {"error": "syntax", "message": exc.message or "bad template", "line": exc.lineno}
    except UndefinedError as exc:
        return _undefined(environment, template, str(exc.message))
    except SecurityError as exc:
        return {"error": "forbidden", "message": str(exc)}
    except (MemoryError, OverflowError, RecursionError) as exc:
        return {"error": "exhausted", "message": type(exc).__name__}
    except Exception as exc:  # noqa: BLE001 - whatever an expression raises is the template's fault
        return {"error": "failed", "message": f"{type(exc).__name__}: {exc}"[:300]}
    if isinstance(value, str) and len(value) > OUTPUT:
        return {"error": "exhausted", "message": "output"}
    return {"value": value}


def names(environment: Environment, template: str) -> dict[str, Any]:
    """The paths that the template reads of its scope, or why it can't be read. Evaluates nothing."""
    try:
        tree = _parsed(environment, template)
        free = meta.find_undeclared_variables(tree) - set(GLOBALS)
        return {"names": _paths(tree, free)}
    except TemplateSyntaxError as exc:
        return {"error": "syntax", "message": exc.message or "bad template", "line": exc.lineno}
    except SecurityError as exc:
        return {"error": "forbidden", "message": str(exc)}
    except (MemoryError, OverflowError, RecursionError) as exc:
        return {"error": "exhausted", "message": type(exc).__name__}


def _paths(node: nodes.Node, free: set[str]) -> list[list[str]]:
    path = _path(node)
    if path and path[0] in free:
        return [path]
    return [found for child in node.iter_child_nodes() for found in _paths(child, free)]


def _path(node: nodes.Node) -> list[str]:
    """The path that a chain of names spells, such as `apps.main["text-to-image"].url`; empty for anything else."""
    if isinstance(node, nodes.Name):
        return [node.name]
    if isinstance(node, nodes.Getattr):
        below, last = _path(node.node), node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        below, last = _path(node.node), str(node.arg.value)
    else:
        return []
    return [*below, last] if below else []


def _render(environment: Environment, template: str, scope: dict[str, Any]) -> object:
    return _compiled(environment, template)(scope)


@lru_cache(maxsize=256)
def _compiled(environment: Environment, template: str) -> Callable[[dict[str, Any]], object]:
    """The template as a function of its scope; for_each renders the same one again and again."""
    _parsed(environment, template)
    expression = sole_expression(environment, template)
    if expression is None:
        return environment.from_string(template).render
    compiled = environment.compile_expression(expression, undefined_to_none=False)
    return lambda scope: _typed(compiled(**scope))


def _parsed(environment: Environment, template: str) -> nodes.Template:
    tree = environment.parse(template)
    blocked = next((found for kind in BLOCKED for found in tree.find_all(kind)), None)
    if blocked is not None:
        raise SecurityError(f"{type(blocked).__name__.lower()} is not allowed")
    return tree


def _typed(value: object) -> object:
    return value if type(value) in (str, int, float, bool) else str(value)


def sole_expression(environment: Environment, template: str) -> str | None:
    """The text between `{{` and `}}` if the template is exactly one expression."""
    tokens = [(kind, text) for _, kind, text in environment.lex(template)]
    kinds = [kind for kind, _ in tokens]
    if kinds[:1] != ["variable_begin"] or kinds[-1:] != ["variable_end"] or kinds.count("variable_begin") != 1:
        return None
    return "".join(text for _, text in tokens[1:-1])


def _undefined(environment: Environment, template: str, message: str) -> dict[str, Any]:
    match = _UNDEFINED.search(message)
    name = next((group for group in match.groups() if group), "") if match else ""
    offset = start = 0
    for _, kind, text in environment.lex(template):
        if kind in ("variable_begin", "block_begin"):
            start = offset
        if kind in ("name", "string") and text.strip("'\"") == name:
            break
        offset += len(text)
    return {"error": "undefined", "message": message, "name": name, "offset": start}


def main() -> None:
    """Answer until standard input ends."""
    environment = make_environment()
    answer(environment, "{{ warm }}", {"warm": 1})
    answer(environment, "{{ cold }}", {})
    names(environment, "{{ warm.er }}")
    bound_memory()
    scope: dict[str, Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        bound_time(CPU)
        scope = job.get("scope", scope)
        reply = names(environment, job["template"]) if job.get("names") else answer(environment, job["template"], scope)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
