"""Keeps runners as units of systemd: composes a unit, starts it, knows its own again, and takes it away. One unit for each runner.

A part of the agent: lies beside it on each machine. `python -I -S units.py give UNIT FOLDER HOME` is called by a unit itself, as root,
so that an app's own folders belong to the user whom systemd chose for it. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

SYSTEM, USER = "system", "user"
TARGETS = {SYSTEM: "multi-user.target", USER: "default.target"}
HOMES = ("/root", "/home", "/run/user")
"""What ProtectHome= covers."""
HEADROOM = 64 << 20
"""Bytes above a runner's limit at which the kernel ends it: its supervisor, which counts and can say why, comes first."""
FRONT = 64 << 20
"""Bytes that its TLS front may take beside that."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ")
RECORD, ENDING, OWNER = "unit.json", "ending", "owner.json"
GPU_FILES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
SOCKETS = "/run/falplan"
"""Where sockets of runners lie whose folder has too long a path."""

HARDENED = """\
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL CAP_DAC_OVERRIDE CAP_SYS_PTRACE
PrivateTmp=yes
ProtectSystem=strict
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
RemoveIPC=yes
"""
"""What no runner needs, where the system's manager can take it away. What is left is the supervisor's, who gives the app to its user and
ends it: all that root reads there is the supervisor's. The app has no capability, and can get none."""

OWN = "NoNewPrivileges=yes\nLockPersonality=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\nSystemCallArchitectures=native\n"
"""The part of it that a user's own manager can take away."""


# -- which -----------------------------------------------------------------------------------------------------------------


def manager() -> str:
    """Whose systemd can keep runners of this process's user over its logins: `system`, `user`, or empty."""
    if not os.path.isdir("/run/systemd/system"):  # as sd_booted(3) finds out whether systemd runs the machine
        return ""
    if os.getuid() == 0:
        return SYSTEM
    import pwd

    try:
        lingers = os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.getuid()).pw_name}")
    except KeyError:
        return ""
    return USER if lingers and os.path.exists(f"{runtime_of(os.getuid())}/systemd/private") else ""


def runtime_of(uid: int) -> str:
    """A user's runtime folder."""
    return f"/run/user/{uid}"


def prefix_of(base: str) -> str:
    """What the names of all units begin with whose runners lie in the folder `base`, .../runners."""
    return f"falplan-{hashlib.sha256(os.path.realpath(base).encode()).hexdigest()[:8]}-"


def name_of(folder: str) -> str:
    """The name of a runner's unit."""
    return f"{prefix_of(os.path.dirname(folder))}{os.path.basename(folder)}.service"


def unit_folder(which: str) -> str:
    """Where units of a manager lie that somebody wrote."""
    return "/etc/systemd/system" if which == SYSTEM else os.path.expanduser("~/.config/systemd/user")


def listed(folder: str) -> list[str]:
    """Names in a folder, sorted; none if it is not there."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def systemctl(which: str, *args: str) -> str:
    """Ask systemd. What it printed.

    Raises:
        RuntimeError: it refused, in its words.
    """
    import subprocess  # takes a fifth of the time of a look, which asks nobody

    argv = ["systemctl", "--no-ask-password", *(["--user"] if which == USER else []), *args]
    env = {**os.environ, "LC_ALL": "C", "XDG_RUNTIME_DIR": runtime_of(os.getuid())}
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=env, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise RuntimeError(f"systemctl {args[0]}: {exc}") from exc
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise RuntimeError(f"systemctl {' '.join(args)}: {said[:500] or f'status {done.returncode}'}")
    return done.stdout.strip()


# -- a unit's text ---------------------------------------------------------------------------------------------------------


def compose(folder: str, wanted: Mapping[str, Any], supervisor: str) -> str:
    """The text of a runner's unit. Raises ValueError for what can't be said in one.

    `wanted` is {manager, app, vcpu, memory, gpus, grace, run_as, writable, python, front}: memory in bytes, grace in seconds, GPUs by
    index; `python` is the interpreter of the app's environment, or absent; `front`: it has a TLS front.
    """
    which, name = wanted["manager"], name_of(folder)
    python = [interpreter(bool(wanted.get("run_as"))), "-I", "-S"]
    home = home_for(folder, wanted)
    lines = [
        "# Written by falplan, which takes it away again. What is changed here is set back by the next apply.",
        "[Unit]",
        f"Description=falplan runner {escaped(os.path.basename(folder))} of {escaped(wanted['app'])}",
        "After=network.target",
        "",
        "[Service]",
        "Type=exec",
        # The supervisor stays root, without most of its rights; the app alone is the user's (systemd.service(5), on `!`).
        f"ExecStart={'!' if which == SYSTEM else ''}{words([*python, supervisor, folder, '--unit'])}",
        "KillMode=mixed",
        f"TimeoutStopSec={int(float(wanted['grace'])) + 15}",
        "OOMPolicy=continue",
        "LimitCORE=0",
        "LimitNOFILE=65536",
        "UMask=0077",
        f"MemoryMax={int(wanted['memory']) + HEADROOM + (FRONT if wanted.get('front') else 0)}",
        "MemorySwapMax=0",
        f"CPUQuota={max(1, round(float(wanted['vcpu']) * 100))}%",
        *(variable(n, os.environ[n]) for n in PASSED_ON if n in os.environ),
    ]
    lines += _for_system(folder, wanted, name, python, home) if which == SYSTEM else OWN.splitlines()
    return "\n".join([*lines, "", "[Install]", f"WantedBy={TARGETS[which]}", ""])


def _for_system(folder: str, wanted: Mapping[str, Any], name: str, python: list[str], home: str) -> Iterator[str]:
    """What only the system's manager can do: a user for each app, what it sees of the machine, and which devices it may open."""
    own, root = not wanted.get("run_as"), root_of(folder)
    user = user_of(folder, wanted["app"]) if own else str(wanted["run_as"])
    yield f"User={user}"
    if own:
        yield "DynamicUser=yes"
        yield "ProtectHome=tmpfs"
    for variable_name in ("USER", "LOGNAME"):
        yield variable(variable_name, user)
    yield variable("HOME", home if own else home_of(user))
    yield from HARDENED.splitlines()
    yield "Environment=XDG_RUNTIME_DIR=/run"
    yield f"ExecStartPre=+{words([*python, os.path.abspath(__file__), 'give', name, folder, *([home] if own else [])])}"
    if not (own and is_below(root, HOMES)):  # other runners, the ledger and the marker are none of its business
        yield f"TemporaryFileSystem={path_of(root)}:ro"
    for path in readable(root, wanted):
        yield f"BindReadOnlyPaths=-{path_of(path)}"
    for path in (folder, *([home] if own else [])):
        yield f"BindPaths={path_of(path)}"
    yield f"BindPaths=-{SOCKETS}"
    for path in wanted.get("writable") or ():
        yield f"{'BindPaths' if own and is_below(path, HOMES) else 'ReadWritePaths'}={path_of(path)}"
    yield "DevicePolicy=closed"
    for path in devices_of(tuple(wanted.get("gpus") or ())):
        yield f"DeviceAllow={path} rw"
    if wanted.get("gpus"):
        yield "DeviceAllow=char-nvidia-uvm rw"  # its file may be made later, by the first who computes


BELOW = ("tools", "environments", "uv")
"""What runners read below falplan's folder."""


def readable(root: str, wanted: Mapping[str, Any]) -> list[str]:
    """What a runner reads: parts of falplan's folder, and interpreters of its supervisor and environment that lie in somebody's home."""
    bases = {os.path.realpath(sys.base_prefix)}
    if wanted.get("python"):
        bases.add(os.path.dirname(os.path.dirname(os.path.realpath(str(wanted["python"])))))
    return [*(f"{root}/{name}" for name in BELOW), *sorted(base for base in bases if is_below(base, HOMES))]


def is_below(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a path lies in one of these folders."""
    return path.startswith(tuple(f"{folder}/" for folder in folders))


def home_of(user: str) -> str:
    """A user's home. Raises ValueError if there is no such user."""
    import pwd

    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        raise ValueError(f"run_as: there is no user {user} on this host") from None


def interpreter(of_another: bool) -> str:
    """The Python of supervisors: this one, unless it lies in a home that `of_another` user of the machine can't enter.

    Raises ValueError if there is no other.
    """
    base = os.path.realpath(sys.base_prefix)
    if not of_another or not is_below(base, HOMES):
        return os.path.realpath(sys.executable)
    if os.access("/usr/bin/python3", os.X_OK):
        return "/usr/bin/python3"
    raise ValueError(
        f"run_as needs a Python that its user can run: this one lies in {base}. Install the package python3"
    )


def root_of(folder: str) -> str:
    """The folder of falplan's things that a runner's folder lies in."""
    return os.path.dirname(os.path.dirname(folder))


def user_of(folder: str, app: str) -> str:
    """The name of the user for an app's runners: the same for all of them, so that they share what they keep at home."""
    return f"fp-{hashlib.sha256(f'{root_of(folder)}{chr(10)}{app}'.encode()).hexdigest()[:12]}"


def home_for(folder: str, wanted: Mapping[str, Any]) -> str:
    """The home of that user: models that were downloaded once are there for the next runner."""
    return f"{root_of(folder)}/homes/{user_of(folder, wanted['app'])}"


def devices_of(gpus: tuple[int, ...], files: str = "/dev", proc: str = "/proc/driver/nvidia/gpus") -> list[str]:
    """The device files of GPUs by index, and those that all of them share. Without GPUs none.

    nvidia-smi counts by place on the bus, device files by minor number; where the driver does not tell of that, they are taken as equal.
    """
    if not gpus:
        return []
    minors = []
    for path in (f"{proc}/{place}/information" for place in listed(proc)):
        with open(path, encoding="utf-8") as file:
            minors += [line.split(":")[1].strip() for line in file if line.startswith("Device Minor")]
    own = [f"{files}/nvidia{minors[g] if g < len(minors) else g}" for g in gpus]
    shared = [f"{files}/{name}" for name in GPU_FILES]
    return [path for path in (*own, *shared) if os.path.exists(path)]


def words(argv: list[str]) -> str:
    """Words of a command in a unit, each in quotes, with nothing in them that systemd would read as its own."""
    return " ".join(f'"{escaped(word).replace("$", "$$")}"' for word in argv)


def variable(name: str, value: str) -> str:
    """A line that sets a variable."""
    return f'Environment="{name}={escaped(value)}"'


def escaped(word: str) -> str:
    """A word as systemd reads it back. Raises ValueError for characters that no unit can hold."""
    if not word.isprintable():
        raise ValueError(f"{word!r} can't stand in a unit of systemd")
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def path_of(path: str) -> str:
    """A path in a list of paths."""
    if any(c.isspace() or c in ":\"'" for c in path) or not path.isprintable():
        raise ValueError(f"{path!r} can't stand in a unit of systemd: it has spaces, quotes or colons in it")
    return path.replace("\\", "\\\\").replace("%", "%%")


# -- on the machine --------------------------------------------------------------------------------------------------------


def start(folder: str, wanted: Mapping[str, Any], supervisor: str) -> None:
    """Write a runner's unit and start it. May be called again.

    Raises:
        RuntimeError, OSError: systemd refused, or the user of the unit could not get at its files.
    """
    text, which, name = compose(folder, wanted, supervisor), wanted["manager"], name_of(folder)
    if which == SYSTEM:
        _open_ways(folder, wanted)
        if wanted.get("gpus"):
            _make_devices()
    path = os.path.join(unit_folder(which), name)
    _remember_made(root_of(folder), which)
    _write(os.path.join(folder, RECORD), json.dumps({"manager": which, "text": text}), 0o600)
    _write(path, text, 0o644)
    systemctl(which, "enable", "--quiet", name)  # which makes systemd read it, too
    try:
        systemctl(which, "start", name)
    except RuntimeError as exc:
        said = why_failed(which, name)
        raise RuntimeError(f"{exc}{f' ({said})' if said else ''}") from None


def why_failed(which: str, name: str) -> str:
    """What systemd knows of a unit's failure."""
    try:
        shown = dict(
            line.partition("=")[::2]
            for line in systemctl(which, "show", "-p", "Result,ExecMainStatus", name).splitlines()
        )
    except RuntimeError:
        return ""
    return f"{shown.get('Result', '')}, status {shown.get('ExecMainStatus', '')}"


def _open_ways(folder: str, wanted: Mapping[str, Any]) -> None:
    """Let the unit's user through to what it reads. What lies beside that stays hidden in its view of the machine.

    Raises:
        PermissionError: a folder above falplan's lets nobody through.
    """
    root = root_of(folder)
    for path in wanted.get("writable") or ():
        if not os.path.isdir(path):
            raise NotADirectoryError(20, f"there is no such folder, which `writable` names: mkdir {path}", path)
    os.makedirs(home_for(folder, wanted), mode=0o700, exist_ok=True)
    for path in (os.path.dirname(root), *(f"{root}/{name}" for name in BELOW)):
        if os.path.isdir(path):
            os.chmod(path, os.stat(path).st_mode | 0o011)
    for version in listed(f"{root}/tools"):
        os.chmod(f"{root}/tools/{version}", 0o755)
        for script in listed(f"{root}/tools/{version}"):
            os.chmod(f"{root}/tools/{version}/{script}", 0o644)
    hidden = () if wanted.get("run_as") else HOMES
    above = os.path.dirname(os.path.dirname(root))
    while above != "/" and not above.startswith(hidden or "\0"):
        if not os.stat(above).st_mode & 0o001:
            raise PermissionError(
                13, f"the user of the unit can't get through: chmod o+x {above}, or set another `folder`", above
            )
        above = os.path.dirname(above)


def _make_devices() -> None:
    """Have the driver's own program make the file of unified memory, which exists only once somebody has computed."""
    import shutil
    import subprocess

    program = shutil.which("nvidia-modprobe")
    if program:
        subprocess.run([program, "-u", "-c=0"], check=False, capture_output=True, timeout=20)


def _remember_made(root: str, which: str) -> None:
    """Note which of systemd's folders are there because of falplan: they go with the last unit."""
    path = os.path.join(root, "units.json")
    if os.path.exists(path):
        return
    base = unit_folder(which)
    each = (f"{base}/{TARGETS[which]}.wants", base, os.path.dirname(base), os.path.dirname(os.path.dirname(base)))
    _write(path, json.dumps([folder for folder in each if not os.path.isdir(folder)]), 0o600)
    os.makedirs(base, exist_ok=True)


def _write(path: str, text: str, mode: int) -> None:
    """Whole or not at all, durably."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(temporary, path)


def record_of(folder: str) -> dict[str, Any] | None:
    """{manager, text} of a runner that is kept as a unit, None of another one."""
    try:
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except (OSError, ValueError):
        return None


def mark_ending(folder: str) -> None:
    """The runner is to end for good: its unit does not bring it back when the machine starts."""
    if record_of(folder) is not None:
        open(os.path.join(folder, ENDING), "ab").close()


def names(base: str) -> dict[str, str]:
    """Runner id -> manager of every unit whose runner lies, or lay, in `base`."""
    found = {}
    which = SYSTEM if os.getuid() == 0 else USER
    prefix = prefix_of(base)
    for name in listed(unit_folder(which)):
        if name.startswith(prefix) and name.endswith(".service"):
            found[name[len(prefix) : -len(".service")]] = which
    return found


def users(base: str) -> set[str]:
    """The users of the units whose runners lie in `base`."""
    found = set()
    for runner_id, which in names(base).items():
        path = os.path.join(unit_folder(which), f"{prefix_of(base)}{runner_id}.service")
        try:
            with open(path, encoding="utf-8") as file:
                found |= {line.rstrip("\n")[len("User=") :] for line in file if line.startswith("User=")}
        except FileNotFoundError:
            pass
    return found


def remove(base: str, runner_id: str) -> None:
    """Take away a runner's unit, whatever of it is there. The runner is gone."""
    which, name = names(base).get(runner_id, ""), f"{prefix_of(base)}{runner_id}.service"
    if not which:
        return
    path = os.path.join(unit_folder(which), name)
    _drop_overrides(f"{path}.d")
    for link in (os.path.join(unit_folder(which), f"{TARGETS[which]}.wants", name), path):
        try:
            os.unlink(link)
        except FileNotFoundError:
            pass
    try:
        systemctl(which, "daemon-reload")
        systemctl(which, "reset-failed", name)
    except RuntimeError:
        pass  # it never failed, or the machine is going down: the files are what counts
    try:
        os.rmdir(SOCKETS)
    except OSError:
        pass  # there is none, or other runners' sockets lie there


def remove_made(root: str) -> None:
    """Take away systemd's folders that were made for units of this root, if they are empty."""
    try:
        with open(os.path.join(root, "units.json"), encoding="utf-8") as file:
            made = json.load(file)
    except (OSError, ValueError):
        return
    for folder in made:
        try:
            os.rmdir(folder)
        except OSError:
            return


def edited(base: str) -> list[str]:
    """Runner ids whose unit is not what was written, or is gone while its runner is not to end."""
    found = []
    for folder in (os.path.join(base, name) for name in listed(base)):
        record = record_of(folder)
        if record is None or os.path.exists(os.path.join(folder, ENDING)):
            continue
        try:
            with open(os.path.join(unit_folder(record["manager"]), name_of(folder)), encoding="utf-8") as file:
                same = file.read() == record["text"]
        except (OSError, ValueError):
            same = False
        overridden = os.path.isdir(os.path.join(unit_folder(record["manager"]), f"{name_of(folder)}.d"))
        if not same or overridden:
            found.append(os.path.basename(folder))
    return found


def mend(base: str) -> list[str]:
    """Write units that were edited as they were. Runners go on as they are: what was changed has not reached them, or ends with them."""
    changed = edited(base)
    for runner_id in changed:
        folder = os.path.join(base, runner_id)
        record = record_of(folder)
        if record is not None:
            which, name = record["manager"], name_of(folder)
            _drop_overrides(os.path.join(unit_folder(which), f"{name}.d"))
            _write(os.path.join(unit_folder(which), name), record["text"], 0o644)
            systemctl(which, "enable", "--quiet", name)
    return changed


def _drop_overrides(folder: str) -> None:
    """What `systemctl edit` leaves."""
    for name in listed(folder):
        os.unlink(os.path.join(folder, name))
    if os.path.isdir(folder):
        os.rmdir(folder)


# -- called by a unit ------------------------------------------------------------------------------------------------------


def give(name: str, folder: str, homes: list[str]) -> None:
    """Make an app's own folders belong to the unit's user, and note for the supervisor who that is. The runner's folder stays root's:
    nothing that root reads or opens is the app's."""
    import pwd

    owner, group = (int(systemctl(SYSTEM, "show", "-p", p, "--value", name)) for p in ("UID", "GID"))
    try:
        groups = os.getgrouplist(pwd.getpwuid(owner).pw_name, group)
    except (KeyError, OSError):
        groups = []  # nobody resolves names of users that systemd made
    os.makedirs(SOCKETS, mode=0o700, exist_ok=True)
    os.chmod(folder, 0o711)
    for own in (os.path.join(folder, "work"), *homes):
        if os.path.isdir(own) and os.stat(own).st_uid != owner:
            _give_all(own, owner, group)
    _write(os.path.join(folder, OWNER), json.dumps({"uid": owner, "gid": group, "groups": groups}), 0o600)


def _give_all(top: str, owner: int, group: int) -> None:
    """Files that lie elsewhere, too, as an app's own do, are left as they are. None of this user's processes lives now."""
    for base, below, files in os.walk(top):
        for entry in (*below, *files):
            path = os.path.join(base, entry)
            found = os.lstat(path)
            if os.path.islink(path) or os.path.isdir(path) or found.st_nlink == 1:
                os.chown(path, owner, group, follow_symlinks=False)
    os.chown(top, owner, group)  # last: it tells that all of it was given


if __name__ == "__main__":
    give(sys.argv[2], sys.argv[3], sys.argv[4:])
