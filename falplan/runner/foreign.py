"""What somebody else changed of what falplan put on a machine, and setting it back. A part of the agent.

Units, settings of runners, files of apps, and falplan's own scripts. A runner that somebody's change has reached, or would reach when it
is started again, can't be set back under its app: it is marked as spoiled, and replaced by its control plane. What an app itself writes
beside its files is its own. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import hashlib
import os
import stat

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import units
    from falplan.runner.processes import SPOILED, is_locked, read_json, remove_tree, write_whole
else:
    import units
    from processes import SPOILED, is_locked, read_json, remove_tree, write_whole

SETTINGS, SEAL = "runner.json", "runner.json.sha256"


def write_settings(folder: str, content: bytes) -> None:
    """Leave a runner's settings, and by what to know them again."""
    write_whole(os.path.join(folder, SEAL), hashlib.sha256(content).hexdigest().encode())
    write_whole(os.path.join(folder, SETTINGS), content)


def edited(request: dict[str, Any]) -> list[str]:
    """What somebody changed of what falplan put below `root`, in words.

    `scripts` is the version of falplan's own scripts that runners are started with; without it they are not looked at.
    """
    root = os.path.realpath(request["root"])
    found = [f"the unit of {name}" for name in units.edited(os.path.join(root, "runners"))]
    found += [f"the settings of {os.path.basename(folder)}" for folder in changed_settings(root)]
    for name in changed_bundles(root):
        users = ", ".join(os.path.basename(folder) for folder in linked_to(root, [name]))
        found.append(f"the files of bundle {name[:12]}{f', from which {users} run' if users else ''}")
    versions = changed_scripts(root, request["scripts"]) if "scripts" in request else []
    return [*found, *(f"falplan's scripts of version {version}" for version in versions)]


def mend(request: dict[str, Any]) -> list[str]:
    """Set back what `edited` tells of, or have it replaced: files are brought again when the next runner needs them.

    Scripts of the version that starts runners are brought by whoever asks.
    """
    root, found = os.path.realpath(request["root"]), edited(request)
    units.mend(os.path.join(root, "runners"))
    bundles = changed_bundles(root)
    old = (
        [v for v in changed_scripts(root, request["scripts"]) if v != request["scripts"]]
        if "scripts" in request
        else []
    )
    for folder in {*changed_settings(root), *linked_to(root, bundles), *started_by(root, old)}:
        spoil(folder)
    for name in bundles:
        remove_tree(os.path.join(root, "bundles", name))
    return found


def spoil(folder: str) -> None:
    """Have a runner replaced: it goes on until another one serves, and does not come back if its machine is restarted before."""
    units.mark_ending(folder)
    open(os.path.join(folder, SPOILED), "ab").close()


def living(root: str) -> Iterator[str]:
    """Folders of the runners that live and are not to be replaced anyway."""
    base = os.path.join(root, "runners")
    for folder in (os.path.join(base, name) for name in units.listed(base) if not name.startswith(".")):
        if is_locked(folder) and not os.path.exists(os.path.join(folder, SPOILED)):
            yield folder


# -- settings -------------------------------------------------------------------------------------------------------------


def changed_settings(root: str) -> list[str]:
    """Folders of living runners whose settings are not those that they were given. Runners of older releases have no seal."""
    return [folder for folder in living(root) if not _is_sealed(folder)]


def _is_sealed(folder: str) -> bool:
    seal = _read(os.path.join(folder, SEAL))
    return not seal or hashlib.sha256(_read(os.path.join(folder, SETTINGS))).hexdigest().encode() == seal


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


# -- files of apps --------------------------------------------------------------------------------------------------------


def changed_bundles(root: str) -> list[str]:
    """Bundles that are not as they were put there. Files have no time of change then, and nobody may write to them or beside them."""
    base = os.path.join(root, "bundles")
    names = [n for n in units.listed(base) if not n.startswith(".")]
    return [n for n in names if next(changes(os.path.join(base, n)), None) is not None]


def changes(folder: str) -> Iterator[os.stat_result]:
    """Whatever below is not as unpacked, by its time and its mode. Contents are not read: it is asked often."""
    for base, _, names in os.walk(folder):
        found = os.lstat(base)
        if found.st_mode & 0o222:
            yield found
        for name in names:
            found = os.lstat(os.path.join(base, name))
            if found.st_mtime != 0 or found.st_mode & 0o222:
                yield found


def linked_to(root: str, bundles: list[str]) -> list[str]:
    """Folders of living runners that have links to changed files of these bundles: they read what somebody wrote."""
    changed = [s for name in bundles for s in changes(os.path.join(root, "bundles", name)) if stat.S_ISREG(s.st_mode)]
    files = {(s.st_dev, s.st_ino) for s in changed if s.st_nlink > 1}
    return [folder for folder in living(root) if files and _has_one(os.path.join(folder, "work"), files)]


def _has_one(work: str, files: set[tuple[int, int]]) -> bool:
    for base, _, names in os.walk(work):
        for name in names:
            try:
                found = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue  # it is the app's, who has just removed it
            if (found.st_dev, found.st_ino) in files:
                return True
    return False


# -- falplan's own scripts ------------------------------------------------------------------------------------------------


def digest_of(scripts: dict[str, bytes]) -> str:
    """The version of a set of scripts: what the folder is called in which they lie."""
    seal = hashlib.sha256()
    for name, content in sorted(scripts.items()):
        seal.update(name.encode() + b"\0" + content + b"\0")
    return seal.hexdigest()[:12]


def changed_scripts(root: str, own: str) -> list[str]:
    """Versions whose scripts are not those that were put there: `own`, which starts runners, and others that living ones were started by.

    The agent is put last: where it is missing, the others are still on their way.
    """
    base = os.path.join(root, "tools")
    found = []
    for version in units.listed(base):
        names = [n for n in units.listed(os.path.join(base, version)) if n.endswith(".py")]
        if "agent.py" not in names:
            continue
        if digest_of({n: _read(os.path.join(base, version, n)) for n in names}) == version:
            continue
        if version == own or started_by(root, [version]):
            found.append(version)
    return found


def started_by(root: str, versions: list[str]) -> list[str]:
    """Folders of living runners whose supervisor is of one of these versions, and would be started from there again."""
    return [folder for folder in living(root) if versions and _version(folder) in versions]


def _version(folder: str) -> str:
    record = units.record_of(folder)
    supervisor = ((read_json(os.path.join(folder, "status.json")) or {}).get("supervisor") or {}).get("pid")
    told = record["text"] if record else _read(f"/proc/{supervisor}/cmdline").decode(errors="replace")
    return told.partition("/tools/")[2].partition("/")[0]
