"""One machine's ledger: who may act on it, and what its runners take. One for each user, shared by all projects of the machine.

A part of the agent: lies beside it on each machine. It is a folder (see `machine_folder`) with `ledger.json`, always written whole, and
`ledger.lock`, whose flock is held while the ledger is changed and while a runner is started or signalled. Version 1 holds `claims`
(lineage -> claim), `retired` (control plane -> the one that replaced it) and `reservations` (runner folder -> what it takes).
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner.processes import boot_id, flush, fp, is_same, look, mark_table
    from falplan.runner.rules import Refusal, check_exclusive, check_fence, check_room, judge_claim, left_by
else:  # on a machine it is a script's neighbour, not a part of a package
    from processes import boot_id, flush, fp, is_same, look, mark_table
    from rules import Refusal, check_exclusive, check_fence, check_room, judge_claim, left_by

FORMAT, VERSION = "falplan machine ledger", 1
PATIENCE = 40.0  # seconds to wait for the lock: longer than a start may take
START_TIMEOUT = 30.0  # seconds for which a reservation is kept whose runner is not there yet
CLAIM_KEYS = (
    "lineage",
    "control_plane",
    "epoch",
    "home",
    "project",
    "user",
    "host",
    "process",
    "since",
    "shared",
    "confirmed",
    "left",
)
ENTRY_KEYS = ("runner_id", "root", "lineage", "project", "vcpu", "ram", "gpus", "at", "boot_id")


# -- the folder and its file ----------------------------------------------------------------------------------------------


def machine_folder(environ: Mapping[str, str]) -> str:
    """$FALPLAN_MACHINE_DIR, or one for each user that no home folder decides."""
    return environ.get("FALPLAN_MACHINE_DIR") or f"/var/tmp/falplan-{os.getuid()}"  # noqa: S108 - checked by lstat below


def check_folder(folder: str) -> bool:
    """Whether it is there. A folder that somebody else could have made or can write is refused."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        raise _unreadable(folder, "it is no folder, or a link")
    if found.st_uid != os.getuid():
        raise _unreadable(folder, f"it belongs to user {found.st_uid}")
    if found.st_mode & 0o077:
        raise _unreadable(folder, f"others may enter it (mode {stat.S_IMODE(found.st_mode):04o}, not 0700)")
    return True


def _unreadable(path: str, why: str) -> Refusal:
    return Refusal(
        "unreadable",
        f"{path}: {why}. Nothing was touched. See who made it; once no runner is left on this machine, move it away.",
    )


def empty() -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "claims": {}, "retired": {}, "reservations": {}}


def load(folder: str) -> dict[str, Any]:
    """The ledger; an empty one if there is none yet. What is torn, foreign or newer is refused."""
    path = os.path.join(folder, "ledger.json")
    if not check_folder(folder):
        return empty()
    try:
        with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW)) as file:
            body = json.loads(file.read())
    except FileNotFoundError:
        return empty()
    except ValueError:
        raise _unreadable(path, "it is not whole JSON") from None
    except OSError as exc:
        raise _unreadable(path, exc.strerror or str(exc)) from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise _unreadable(path, "falplan did not write it")
    if body.get("version") != VERSION:
        raise _unreadable(path, f"it is version {body.get('version')!r}; this falplan knows version {VERSION}")
    if not _is_whole(body):
        raise _unreadable(path, "parts of it are missing")
    return body


def _is_whole(body: dict[str, Any]) -> bool:
    claims, retired, reservations = body.get("claims"), body.get("retired"), body.get("reservations")
    if not (isinstance(claims, dict) and isinstance(retired, dict) and isinstance(reservations, dict)):
        return False
    return all(_has(c, CLAIM_KEYS) for c in claims.values()) and all(_has(r, ENTRY_KEYS) for r in reservations.values())


def _has(value: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and all(k in value for k in keys)


class Turn:
    """The ledger while its lock is held. `save` makes what was changed durable."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or machine_folder(os.environ)
        self.body: dict[str, Any] = {}

    def __enter__(self) -> Turn:
        while not self._lock():
            pass  # whoever had it took the folder away, with the file that was waited for
        try:
            self.body = load(self.folder)
        except BaseException:
            os.close(self.handle)
            raise
        return self

    def _lock(self) -> bool:
        """Wait for the lock. False: its file is not the ledger's any more."""
        if not check_folder(self.folder):
            os.makedirs(os.path.dirname(self.folder), exist_ok=True)
            try:
                os.mkdir(self.folder, 0o700)
            except FileExistsError:
                pass
            check_folder(self.folder)
        path = os.path.join(self.folder, "ledger.lock")
        try:
            self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return False
        try:
            self._wait()
            found, held = os.stat(path), os.fstat(self.handle)
        except FileNotFoundError:
            os.close(self.handle)
            return False
        except BaseException:
            os.close(self.handle)
            raise
        if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            os.close(self.handle)
            return False
        return True

    def _wait(self) -> None:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    detail = f"Another falplan has held {self.folder}/ledger.lock for {PATIENCE:g} s."
                    raise Refusal("busy", detail) from None
                time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def save(self) -> None:
        """Replace the file durably, so that a crash at any instant leaves the old one or the new one."""
        path = os.path.join(self.folder, "ledger.json")
        fp("ledger.save.before_write")
        with open(f"{path}.tmp", "wb", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW, 0o600)) as file:
            file.write(json.dumps(self.body).encode())
            file.flush()
            os.fsync(file.fileno())
        fp("ledger.save.before_rename")
        os.replace(f"{path}.tmp", path)
        flush(self.folder)
        fp("ledger.save.after_rename")

    def save_or_vanish(self) -> None:
        """Save it; with nothing left in it, take it away instead: the end of the last project leaves nothing on a machine."""
        if self.body["claims"] or self.body["retired"] or self.body["reservations"]:
            return self.save()
        for name in ("ledger.json.tmp", "ledger.json", "ledger.lock"):  # the lock last: until then it is held
            try:
                os.unlink(os.path.join(self.folder, name))
            except FileNotFoundError:
                pass
        try:
            os.rmdir(self.folder)
        except OSError:
            pass  # somebody took a turn meanwhile, or keeps something of theirs there
        return None

    def check(self, fence: dict[str, Any]) -> None:
        """Whoever carries the fence holds the claim; that it acts shows that its epoch was made durable where it came from."""
        check_fence(self.body["claims"], fence)
        claim = self.body["claims"][fence["lineage"]]
        if claim["confirmed"] != claim["epoch"]:
            claim["confirmed"] = claim["epoch"]
            self.save()

    def reserve(self, folder: str, root: str, fence: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Record what a runner takes before it is started. A second call finds the first one's record."""
        kept = live(self.body)
        others = [entry for where, entry in kept.items() if where != folder]
        check_room(wanted, others)
        kept[folder] = {
            "runner_id": os.path.basename(folder),
            "root": root,
            "lineage": fence["lineage"],
            "project": self.body["claims"][fence["lineage"]]["project"],
            "vcpu": wanted["vcpu"],
            "ram": wanted["ram"],
            "gpus": wanted["gpus"],
            "at": time.time(),
            "boot_id": boot_id(),
        }
        self.body["reservations"] = kept
        self.save()

    def drop(self, folder: str) -> None:
        """The runner is gone: what it took is free."""
        if self.body["reservations"].pop(folder, None) is not None:
            self.save()


def live(body: dict[str, Any]) -> dict[str, Any]:
    """Reservations whose runner is there, or has only just been about to start."""
    boot, now, table = boot_id(), time.time(), mark_table()
    found = {}
    for folder, entry in body["reservations"].items():
        if not os.path.isdir(folder):
            continue
        seen = look(folder, table)
        # Start holds the lock from reservation to supervisor: with the lock free, one that is not there comes at once or never.
        same = entry["boot_id"] == boot  # a unit comes back with its machine, and takes what it took
        starts = same and seen["state"] == "ABSENT" and 0 <= now - entry["at"] < START_TIMEOUT
        if seen["alive"] or seen["survivors"] or starts:
            found[folder] = entry
    return found


# -- verbs ----------------------------------------------------------------------------------------------------------------


def claim(request: dict[str, Any]) -> dict[str, Any]:
    """Take the machine for a control plane. Refused, or {epoch, rolled_back, replaced}. May be repeated."""
    asked, replaces = request["claim"], request.get("replaces") or ""
    with Turn() as turn:
        claims = turn.body["claims"]
        check_exclusive(claims, asked)
        found = claims.get(asked["lineage"])
        lives = found is not None and is_same(found["process"]) and found["process"] != request.get("succeeds")
        taken = judge_claim(found, asked, lives=lives, retired=turn.body["retired"], replaces=replaces)
        confirmed = found["confirmed"] if found and found["control_plane"] == asked["control_plane"] else 0
        more = {"confirmed": confirmed, "left": left_by(found, asked), "since": time.time(), "user": user()}
        claims[asked["lineage"]] = {**asked, **more, "epoch": taken["epoch"]}
        if taken["replaced"]:
            turn.body["retired"][taken["replaced"]] = asked["control_plane"]
        turn.save()
        return taken


def user() -> str:
    """This user's name, or number where it has none, as in containers."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def confirm(request: dict[str, Any]) -> None:
    """The epoch that was given is durable where it is used."""
    with Turn() as turn:
        turn.check(request["fence"])


def release(request: dict[str, Any]) -> bool:
    """Give up a lineage's claim and what its runners below `home` took. A claim that a copy elsewhere holds stays. Whether it went."""
    lineage, home = request["lineage"], request["home"]
    if not check_folder(machine_folder(os.environ)):
        return False
    with Turn() as turn:
        found = turn.body["claims"].get(lineage)
        gone = found is not None and found["home"] == home
        if gone:
            del turn.body["claims"][lineage]
        before = turn.body["reservations"]
        after = {f: e for f, e in before.items() if e["lineage"] != lineage or not _is_below(e["root"], home)}
        turn.body["reservations"] = after
        if gone or after != before:
            turn.save_or_vanish()
        return gone


def give_up(root: str, lineage: str) -> None:
    """Forget what runners of a root took; and the lineage's claim, unless it has runners elsewhere on this machine."""
    if not check_folder(machine_folder(os.environ)):
        return
    with Turn() as turn:
        before = turn.body["reservations"]
        after = {f: e for f, e in before.items() if not _is_below(e["root"], root)}
        turn.body["reservations"] = after
        if not any(e["lineage"] == lineage for e in after.values()):
            turn.body["claims"].pop(lineage, None)
        if not turn.body["claims"] and not after:
            turn.body["retired"] = {}  # whoever was replaced has no way onto this machine any more
        turn.save_or_vanish()


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), os.path.realpath(folder)]) == os.path.realpath(folder)


def view(request: dict[str, Any] | None = None) -> dict[str, Any]:
    """{claims, reservations} as they count now, sorted. Takes no lock: the file is always whole."""
    folder = (request or {}).get("folder") or machine_folder(os.environ)
    body = load(folder)
    for name in ("", "ledger.json", "ledger.lock"):
        try:
            os.utime(os.path.join(folder, name))  # cleaners of /var/tmp take what was not touched for long
        except OSError:
            pass
    entries = live(body)
    claims = [{**c, "lives": is_same(c["process"])} for _, c in sorted(body["claims"].items())]
    return {"claims": claims, "reservations": [entries[f] for f in sorted(entries)]}


VERBS = {"claim": claim, "confirm": confirm, "release": release, "ledger": view}
