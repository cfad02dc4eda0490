"""How the image of a container is named: so that it is the same one everywhere, and for ever."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

from pydantic import PlainValidator, WithJsonSchema

from falplan.core.spec.codes import Code
from falplan.core.spec.types import fault, text
from falplan.core.spec.words import quoted

IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
IMAGE_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
IMAGE = re.compile(
    r"sha256:[0-9a-f]{64}|[a-z0-9][a-zA-Z0-9.-]*(?::[0-9]{1,5})?(?:/[a-z0-9][a-z0-9._-]*)*(?::[\w][\w.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)


def image(value: Any) -> str:
    """An image with its digest, or one that machines have already."""
    word = text(value)
    if not IMAGE.fullmatch(word):
        raise fault(Code.TYPE, f"not an image: {quoted(word)}", "write NAME@sha256:…, without https://")
    if word.startswith("localhost/") or IMAGE_ID.fullmatch(word) or IMAGE_DIGEST.search(word):
        return word
    hint = (
        f"write it as {word.partition('@')[0][:80]}@sha256:…: `docker buildx imagetools inspect {word[:80]}` says which, or "
        f"`podman image inspect --format '{{{{.Digest}}}}' {word[:80]}`"
    )
    raise fault(Code.RANGE, "an image without its digest may be another one at any time", hint)


Image: TypeAlias = Annotated[
    str,
    PlainValidator(image),
    WithJsonSchema({"type": "string", "pattern": "^(sha256:[0-9a-f]{64}|localhost/.+|.+@sha256:[0-9a-f]{64})$"}),
]
