"""What all models of a spec share."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema

from falplan.core.spec.types import choice


class Model(BaseModel):
    """Strict: no unknown key, no coercion. Values of secrets never enter an error message.

    A string below a key is its meaning: `falplan.core.spec.meanings` reads it, where somebody asks.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


def one_of(*allowed: str, later: tuple[str, ...] = ()) -> Any:
    """What reads one of these words, and the JSON Schema of it; those of `later` are named as not supported in this version."""
    return PlainValidator(choice(*allowed, later=later)), WithJsonSchema({"type": "string", "enum": list(allowed)})


def keys_of(model: type[Model]) -> list[str]:
    """The keys of a mapping, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]
