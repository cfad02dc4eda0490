"""Lists as aligned columns. Decides nothing about what is listed."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain columns with a header, as other command lines print them."""
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def age(seconds: float) -> str:
    """A duration in one unit: `42s`, `7m`, `3h`, `12d`."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86_400)}d"
