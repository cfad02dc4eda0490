"""What falplan leaves on a host so that it is known again: a folder with a marker, and the control plane's key. Through a shell alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from falplan.core.errors import FalplanError
from falplan.core.plural import count
from falplan.core.values import Json, JsonObject, digest
from falplan.sdk.failpoints import fp
from falplan.sdk.resources import Mark, Say
from falplan.sdk.scripts import SCRIPTS, put, scripts_version, tool
from falplan.sdk.ssh import SshShell
from falplan.sdk.values import Command, Output

FORMAT, VERSION = "falplan host", 1
MARKER = "host.json"
RESTRICTED = "restrict,port-forwarding"
"""What the control plane's key may do beside running programs: reach what listens there. No terminal, no agent."""


@dataclass(frozen=True, slots=True)
class Marker:
    """One address of one owner on a host.

    `settings` are inputs as they were last brought; `made` are folders that were not there before; `inventory` is what the host had then,
    in words.
    """

    identity: str
    owner: str
    address: str
    operation: str
    settings: JsonObject = field(default_factory=dict)
    access: str = ""
    made: tuple[str, ...] = ()
    inventory: JsonObject = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        body = {"format": FORMAT, "version": VERSION, **asdict(self), "made": list(self.made)}
        return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"

    @staticmethod
    def from_bytes(content: bytes, path: str) -> Marker:
        """Raises FalplanError for what no falplan that we know wrote."""
        try:
            body: Any = json.loads(content)
            if body.pop("format") != FORMAT or body.pop("version") != VERSION:
                raise ValueError("it is of another falplan")
            return Marker(**{**body, "made": tuple(body["made"])})
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            detail = f"{path}: {exc}. Look who changed it, and remove the file: apply writes it anew."
            raise FalplanError("A host's marker can't be read", detail) from None


def identity_of(mark: Mark) -> str:
    """The name of what this operation makes: the same whenever it is repeated, and never that of another one."""
    return hashlib.sha256(f"{mark.owner}\n{mark.address}\n{mark.operation}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Site:
    """Falplan's folder on one host: below it lies a folder for each marker."""

    shell: SshShell
    login: SshShell  #: the same host as the user who logs in, whoever acts there
    base: str

    def root(self, identity: str) -> str:
        return f"{self.base}/{identity}"

    def markers(self) -> list[Marker]:
        """All that are there, of every owner, sorted by identity."""
        found = []
        for entry in self.shell.list(self.base):
            path = f"{self.base}/{entry.name}/{MARKER}"
            try:
                found.append(Marker.from_bytes(self.shell.read_file(path), path))
            except (FileNotFoundError, NotADirectoryError):
                continue  # being made or removed
        return found

    def unmarked(self, identity: str, mark: Mark) -> Marker | None:
        """The marker of this identity's folder, if that is there and the marker is not: somebody took it away. Its rest is not known."""
        if not identity or "/" in identity or not self._is_folder(self.root(identity)):
            return None
        try:
            self.shell.read_file(f"{self.root(identity)}/{MARKER}")
        except FileNotFoundError:
            return Marker(identity, mark.owner, mark.address, mark.operation, made=(self.base,))
        return None

    def write(self, marker: Marker) -> None:
        """Leave the mark, or change it."""
        fp("ssh.marker.before_write")
        self.shell.write_file(f"{self.root(marker.identity)}/{MARKER}", marker.to_bytes())
        fp("ssh.marker.after_write")

    def write_first(self, marker: Marker, missing: Sequence[str]) -> bool:
        """Leave the mark together with the folders that are missing above. Not if others have made or removed some meanwhile."""
        fp("ssh.marker.before_first")
        above = [folder for folder in missing if f"{self.base}/".startswith(f"{folder}/")]
        done = self.shell.write_first(f"{self.root(marker.identity)}/{MARKER}", marker.to_bytes(), above)
        fp("ssh.marker.after_first")
        return done

    def made(self, missing: Iterable[str], others: Iterable[Marker]) -> tuple[str, ...]:
        """Folders that are there because of falplan alone, the lowest first: whoever is the last to leave takes them away.

        `missing` has to be looked for before `others` are: what somebody made meanwhile is in a marker then, as it lies in what they made.
        """
        every = {*missing, *(folder for marker in others for folder in marker.made)}
        return tuple(sorted(every, key=len, reverse=True))

    def missing(self) -> tuple[str, ...]:
        """Falplan's folder, those above, and the one for keys, if they are not there yet."""
        missing, path = [], self.base
        while path not in ("", "/") and not self._is_folder(path):
            missing.append(path)
            path = path.rpartition("/")[0]
        if not self._is_folder(self._ssh(), self.login):
            missing.append(self._ssh())
        return tuple(missing)

    def _is_folder(self, path: str, shell: SshShell | None = None) -> bool:
        above, _, name = path.rpartition("/")
        return any(e.name == name and e.is_folder for e in (shell or self.shell).list(above or "/"))

    # -- the control plane's key --

    def _ssh(self) -> str:
        return f"{self.login.facts['home']}/.ssh"

    def _keys(self) -> list[str]:
        try:
            return self.login.read_file(f"{self._ssh()}/authorized_keys").decode(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return []

    def admits(self, marker: Marker) -> bool:
        """Whether the key that was installed is still there."""
        return not marker.access or line_of(marker) in self._keys()

    def admit(self, marker: Marker) -> None:
        """Install the control plane's key, once, in place of an older one of this marker."""
        line = line_of(marker) if marker.access else None
        self.login.edit_lines(f"{self._ssh()}/authorized_keys", _ending(marker.identity), line)
        fp("ssh.access.after_write")

    # -- what lies there for runners --

    def edited(self, marker: Marker) -> list[str]:
        """What somebody changed of what runners were given, in words."""
        return self._ask(marker, "edited")

    def mend(self, marker: Marker) -> list[str]:
        """Set that back. What it was."""
        root = self.root(marker.identity)
        found = self.edited(marker)
        if not found:
            return []
        folder = tool(root, "")
        there = {e.name for e in self.shell.list(folder)}
        if "agent.py" in there:  # otherwise this version has started nothing there
            for name in sorted(n for n in there - set(SCRIPTS) if n.endswith(".py")):
                self.shell.remove(f"{folder}{name}")
            put(self.shell, root)
        self._ask(marker, "mend")
        return found

    def _ask(self, marker: Marker, verb: str) -> list[str]:
        answer = self.shell.ask_agent({"verb": verb, "root": self.root(marker.identity), "scripts": scripts_version()})
        return self._told(answer, answer.get("error"))

    def _told(self, body: Mapping[str, Any], otherwise: object) -> list[str]:
        if "ok" not in body:
            raise FalplanError("What lies on the host can't be compared", f"{self.shell.target.where}: {otherwise}")
        return [str(one) for one in body["ok"]]

    def _tools(self, root: str) -> dict[str, set[str]]:
        """The folder of each version of falplan's scripts that lies there, and what is in it."""
        folders = [f"{root}/tools/{e.name}" for e in self.shell.list(f"{root}/tools")]
        return {folder: {e.name for e in self.shell.list(folder)} for folder in folders}

    # -- the end --

    def end(self, marker: Marker, say: Say) -> None:
        """End every runner of this marker. The control plane, if it lives, has drained them before; if not, nobody else does."""
        root = self.root(marker.identity)
        # The agent is put last and removed first: a version without it has started nothing, or everything has ended already.
        folders = self._tools(root)
        # Those that know units first: an older one would end runners and leave their units.
        able = [v for v, names in folders.items() if "agent.py" in names]
        if not able:  # the claim is all there is
            self.shell.ask_agent({"verb": "clear", "root": root, "lineage": marker.owner})
            return
        answer: Output | None = None
        for version in sorted(able, key=lambda v: "units.py" not in folders[v]):
            request = {"verb": "clear", "root": root, "lineage": marker.owner}
            argv = (self.shell.python, "-I", "-S", f"{version}/agent.py")
            said = self.shell.run(Command(argv, stdin=json.dumps(request).encode(), timeout=120.0))
            fp("ssh.end.after_clear")
            if said.code == 0 and "ok" in json.loads(said.stdout):
                ended = json.loads(said.stdout)["ok"]
                if ended:
                    say(f"ended {count(len(ended), 'runner')}")
                return
            answer = answer if _is_gone(said) else said
        if answer is not None:
            detail = f"{self.shell.target.where}: {answer.stderr.decode(errors='replace')[-500:] or answer.stdout.decode()[-500:]}"
            raise FalplanError("Runners could not be ended", detail)

    def remove(self, marker: Marker) -> None:
        """Take away all that is below the marker's folder, and folders that were made for it and are empty now. The mark goes last."""
        self.login.edit_lines(f"{self._ssh()}/authorized_keys", _ending(marker.identity), None)
        root = self.root(marker.identity)
        for version in self._tools(
            root
        ):  # first: one that has lost a part of what it needs could not say that all has ended
            self.shell.remove(f"{version}/agent.py")
        fp("ssh.remove.after_agents")
        for entry in self.shell.list(root):
            if entry.name != MARKER:
                self.shell.remove(f"{root}/{entry.name}")
        fp("ssh.remove.before_marker")
        if self._ssh() in marker.made:
            self.login.remove_empty(self._ssh())
        self.shell.remove(root, [folder for folder in marker.made if folder != self._ssh()])


def _is_gone(answer: Output) -> bool:
    """Whether there was no such script any more."""
    return answer.code == 2 and b"can't open file" in answer.stderr


def line_of(marker: Marker) -> str:
    """The line of authorized_keys that admits the control plane."""
    kind, blob = marker.access.split()[:2]
    return f"{RESTRICTED} {kind} {blob}{_ending(marker.identity)}"


def _ending(identity: str) -> str:
    """What the line ends with that was installed under this marker."""
    return f" falplan-control-plane-{identity}"


def version_of(marker: Marker, *, admits: bool, edited: Sequence[str] = ()) -> str:
    """Differs whenever anything about what is there does."""
    body: dict[str, Json] = {**json.loads(marker.to_bytes()), "admits": admits}
    if edited:
        body["edited"] = list(edited)
    return digest(dict(body))[:16]
