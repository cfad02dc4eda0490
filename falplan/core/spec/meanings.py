"""What each key of a spec means, as the string below it in its model says.

pydantic could read these strings itself, but does so whenever the models are imported: a sixth of the time of a small command.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache

from falplan.core.spec.model import Model


def meanings(model: type[Model]) -> dict[str, str]:
    """Key -> its meaning, of those keys whose field has no description of its own; with those of the classes above."""
    found: dict[str, str] = {}
    for above in reversed(model.__mro__):
        if issubclass(above, Model) and above is not Model:
            found |= _below_the_fields(above)
    fields = model.model_fields.items()
    return {f.alias or name: found[name] for name, f in fields if name in found and f.description is None}


def models() -> dict[str, type[Model]]:
    """Name -> model, of all that are imported."""
    waiting, found = [Model], dict[str, type[Model]]()
    while waiting:
        for below in waiting.pop().__subclasses__():
            found[below.__name__] = below
            waiting.append(below)
    return found


def _below_the_fields(model: type[Model]) -> dict[str, str]:
    tree = _classes(model.__module__)[model.__name__]
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {part.name: part for part in tree.body if isinstance(part, ast.ClassDef)}
