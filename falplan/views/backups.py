"""A backup's contents as text for people. Decides nothing."""

from __future__ import annotations

from collections import Counter

from falplan.core.backups import DATABASE, Manifest


def render_manifest(manifest: Manifest) -> str:
    """What a backup holds, a line for each kind of file, and the warning that belongs to it."""
    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for name, held in manifest.files.items():
        sizes[_kind(name)] += held.size
        numbers[_kind(name)] += 1
    lines = [f"  {kind}: {_files(numbers[kind])}, {sizes[kind]:,} bytes" for kind in sorted(sizes)]
    lines.append(f"  control plane {manifest.control_plane} of lineage {manifest.lineage}, falplan {manifest.falplan}")
    if manifest.holds_keys:
        lines.append("It contains keys: whoever has it can act as this control plane. Keep it as you keep a password.")
    return "\n".join(lines) + "\n"


def _kind(name: str) -> str:
    if name == DATABASE:
        return "database"
    return name.partition("/")[0] if "/" in name else "settings and keys"


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
