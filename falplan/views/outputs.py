"""Outputs as text for people. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping

from falplan.core.state import Output
from falplan.views.plan import escape


def output_lines(outputs: Mapping[str, Output]) -> list[str]:
    """`Outputs:` and each of them, as state has them; nothing if there are none. A sensitive value is not shown."""
    if not outputs:
        return []
    return ["", "Outputs:", *(f"  {name} = {_value(outputs[name])}" for name in sorted(outputs))]


def _value(output: Output) -> str:
    return "(sensitive value)" if output.sensitive else escape(json.dumps(output.value, ensure_ascii=False))
