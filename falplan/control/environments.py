"""Requirements -> locked requirements -> an environment on a machine. Knows nothing of apps beyond what a fal.App needs to be served."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from uv import find_uv_bin

from falplan.control.indexes import home_folder, uv_environment, without_credentials
from falplan.control.tools import call
from falplan.core.errors import FalplanError
from falplan.core.spec.resolved import AppKind
from falplan.core.values import JsonObject, digest
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import Shell, TimedOut

FAL_BASE = (
    "fal>=1.61",  # drains on SIGTERM since then
    "uvicorn",
    "starlette_exporter",
    "structlog",
    "packaging",
    "tomli",
    "tomli-w",
    "httpx>=0.20",
    "websockets",
    "msgpack",
)
"""What serving a fal.App needs beside the app's own requirements."""


MARKER = "falplan-environment.json"
"""The file that is in an environment only once it is whole; `builder.py` puts it there."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Locked requirements: versions and hashes. `python` is the version that they are for, as `3.11`; `packages` their number."""

    text: str
    digest: str
    python: str
    packages: int


def lock_requirements(
    requirements: Sequence[str],
    *,
    python: str | None,
    cache: Path,
    cwd: Path,
    progress: Callable[[str], None] = lambda line: None,
    timeout: float = 600.0,
    kind: AppKind = AppKind.FAL,
    anew: bool = False,
) -> Lock:
    """Lock requirements for this machine's platform. The same ones give the same lock as long as `cache` is kept, unless `anew`.

    Relative paths in them start at `cwd`; `kind` decides what serving adds. `python` None is the version of this Python.

    Raises:
        FalplanError: they contradict one another, can't be found, or name what can't be locked; or there is no such Python.
    """
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [*requirements, *(FAL_BASE if kind == AppKind.FAL else ())]
    name = digest(
        {"lines": list(lines), "python": version, "platform": platform_of(), "files": _files_named(lines, cwd)}
    )
    memory = cache / "locks" / f"{name}.json"
    known = _remembered(memory)
    if known and not anew:
        return known
    progress(f"locking {len(lines)} requirements for Python {version}")
    interpreter_of(version, timeout)
    text = _compile(lines, version, cwd, timeout)
    _refuse_unlocked(text)
    lock = Lock(text, digest({"text": text, "python": version}), version, len(re.findall(r"(?m)^[A-Za-z0-9]", text)))
    _remember(memory, lock)
    progress(f"locked {lock.packages} packages")
    return lock


def platform_of() -> str:
    """This machine's platform, as environments count them: `linux-x86_64`."""
    return f"{sys.platform}-{os.uname().machine}"


def environment_key(lock_text: str, python: str, platform: str) -> str:
    """The name of an environment: the same for the same packages, Python and platform."""
    return digest({"lock": lock_text, "python": python, "platform": platform})[:20]


def has_environment(shell: Shell, root: str, key: str) -> bool:
    """Whether an environment is on a machine, whole."""
    return any(e.name == MARKER for e in shell.list(f"{root}/environments/{key}"))


def environment_python(root: str, key: str) -> str:
    """Where the interpreter of an environment lies on a machine."""
    return f"{root}/environments/{key}/bin/python"


def ensure_environment(
    shell: Shell,
    root: str,
    key: str,
    lock: Lock,
    *,
    uv: str | None = None,
    cache: str = "",
    wheels: str = "",
    progress: Callable[[str], None] = lambda line: None,
    timeout: float = 1800.0,
) -> str:
    """Make sure that an environment is on a machine, and return its interpreter. May be called again, and at the same time.

    `uv` is where uv lies on that machine; None: where it lies on this one. `cache` is where it keeps what it downloads; its user's own
    place by default. `wheels` is a folder there with everything that the lock names: nothing else is asked for packages.

    Raises:
        FalplanError: it can't be built, in uv's words.
    """
    answers: list[str] = []

    def hear(line: str) -> None:
        if line.startswith("\x1e"):
            answers.append(line[1:])
        else:
            progress(without_credentials(line))

    fp("environment.build.before")
    request: JsonObject = {
        "root": root,
        "key": key,
        "uv": uv or find_uv_bin(),
        "python": lock.python,
        "lock": lock.text,
        "require_hashes": not _unhashed(lock.text),
        "wheels": wheels,
        "env": {**uv_environment(os.environ, home_folder()), **({"UV_CACHE_DIR": cache} if cache else {})},
        "timeout": timeout,
    }
    call(shell, root, "builder.py", request, timeout=timeout + 30, on_line=hear)
    fp("environment.build.after")
    answer = json.loads(answers[-1]) if answers else {"error": "the builder said nothing"}
    if "error" in answer:
        detail = f"{short(answer['error'])}\nPut it right and apply again; what was built so far is removed."
        raise FalplanError("The environment can't be built", detail)
    return str(answer["ok"])


@contextmanager
def folder_with(file: Path) -> Iterator[Path]:
    """A folder with nothing but this file in it, gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / file.name).symlink_to(file)
        yield folder


def remove_environments_except(shell: Shell, root: str, needed: Iterable[str]) -> list[str]:
    """Remove the environments that nobody needs, and return their keys. Those being built stay."""
    keep = set(needed)
    entries = shell.list(f"{root}/environments")
    gone = [e.name for e in entries if e.is_folder and "." not in e.name and e.name not in keep]
    for key in gone:
        shell.remove(f"{root}/environments/{key}")
    return gone


def _files_named(lines: Iterable[str], cwd: Path) -> JsonObject:
    """Contents of files that requirements name, digested: another content is another lock."""
    named: JsonObject = {}
    for line in lines:
        match = re.match(r"(?:-r|-c|--requirement|--constraint)[ =]?(\S+)", line.strip())
        if match and (cwd / match[1]).is_file():
            named[match[1]] = hashlib.sha256((cwd / match[1]).read_bytes()).hexdigest()
    return named


def _remembered(path: Path) -> Lock | None:
    try:
        return Lock(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _remember(path: Path, lock: Lock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(lock)))
    fp("environment.lock.before_rename")
    temporary.replace(path)


def interpreter_of(version: str, timeout: float) -> str:
    """This machine's Python of a version.

    Raises:
        FalplanError: there is none, and which there are.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = _uv(["python", "find", "--system", "--no-project", version], "", Path("/"), timeout)
    if found.returncode != 0:
        listed = _uv(["python", "list", "--only-installed", "--output-format", "json"], "", Path("/"), timeout)
        there = sorted({p["version"] for p in json.loads(listed.stdout or "[]")})
        raise FalplanError(
            "Python is missing",
            f"The app asks for Python {version}; this machine has {', '.join(there) or 'none'}. "
            "Install that version, or set python_version to one that is there.",
        )
    return found.stdout.strip()


def _compile(lines: Sequence[str], version: str, cwd: Path, timeout: float) -> str:
    argv = ["pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    # Which Python runs counts only for building a source distribution: asking every one on the path takes longer than the rest.
    argv += ["--python", sys.executable, "--python-version", version]
    done = _uv([*argv, "-"], "\n".join(lines) + "\n", cwd, timeout)
    if done.returncode != 0:
        detail = (
            f"{short(done.stderr)}\nChange the app's requirements, or make sure that the package index is reachable."
        )
        raise FalplanError("The requirements can't be locked", detail)
    return done.stdout


def _uv(argv: Sequence[str], stdin: str, cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **uv_environment(os.environ, home_folder()), "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    env.pop("VIRTUAL_ENV", None)
    try:
        return subprocess.run(
            [find_uv_bin(), *argv],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=cwd,
            env=env,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(
            "uv took too long", f"It was ended after {timeout:g} s. Is the package index reachable?"
        ) from None


def _unhashed(text: str) -> list[str]:
    """Requirements of a lock that carry no hash."""
    joined = text.replace("\\\n", " ")
    return [
        line.strip() for line in joined.splitlines() if line.strip() and line[0] not in "#- " and "--hash=" not in line
    ]


def _refuse_unlocked(text: str) -> None:
    for line in _unhashed(text):
        if not re.search(r"git\+\S+@[0-9a-f]{40}", line):
            what = f"{without_credentials(line)} has no fixed contents."
            detail = f"{what} Name a version, a wheel or a Git commit; local code goes into the app's files."
            raise FalplanError("A requirement can't be locked", detail)


def short(text: str, lines: int = 15, size: int = 1500) -> str:
    """The end of what a tool said, without credentials."""
    kept = [line.rstrip() for line in without_credentials(text).splitlines() if line.strip()]
    return "\n".join(kept[-lines:])[-size:] or "uv said nothing"
