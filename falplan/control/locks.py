"""Requirements -> locked requirements, for each platform that they are needed on. Knows nothing of machines."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from falplan.control.indexes import without_credentials
from falplan.control.uvs import run_uv, short
from falplan.core.errors import FalplanError
from falplan.core.platforms import UV
from falplan.core.spec.resolved import AppKind
from falplan.core.values import JsonObject, digest
from falplan.sdk.failpoints import fp
from falplan.sdk.here import own_platform

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


@dataclass(frozen=True, slots=True)
class Lock:
    """Locked requirements: versions and hashes. `python` is the version that they are for, as `3.11`; `packages` their number.

    `platform` is what they are for, empty in locks of older falplans: the control plane's own. `lines` are the requirements that were
    locked, None in such locks; `others` is the same for other platforms. `digest` is that of the first one.
    """

    text: str
    digest: str
    python: str
    packages: int
    platform: str = ""
    lines: Sequence[str] | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """By platform."""
        return {self.platform or own_platform(): self.text, **self.others}

    def on(self, platform: str) -> Lock:
        """The same, for a platform that it has been locked for.

        Raises:
            KeyError: it has not.
        """
        return replace(self, text=self.texts[platform], platform=platform, others={})


def lock_to_bytes(lock: Lock) -> bytes:
    return json.dumps(asdict(lock)).encode()


def lock_from_bytes(content: bytes) -> Lock:
    """Raises ValueError or TypeError for what is no lock."""
    return Lock(**json.loads(content))


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
    platform: str = "",
    like: str = "",
) -> Lock:
    """Lock requirements. The same ones give the same lock as long as `cache` is kept, unless `anew`.

    Relative paths in them start at `cwd`; `kind` decides what serving adds. `python` None is the version of this Python, `platform` empty
    this machine's. `like` is what they were locked to on another platform: versions are the same as far as they are there.

    Raises:
        FalplanError: they contradict one another, can't be found, or name what can't be locked; or nothing is locked for the platform.
    """
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    platform = platform or own_platform()
    lines = [*requirements, *(FAL_BASE if kind == AppKind.FAL else ())]
    asked: JsonObject = {"lines": list(lines), "python": version, "platform": platform}
    name = digest({**asked, "files": _files_named(lines, cwd), **({"like": like} if like else {})})
    memory = cache / "locks" / f"{name}.json"
    known = _remembered(memory)
    if known and not anew:
        return replace(known, platform=platform, lines=lines)
    where = "" if platform == own_platform() else f" on {platform}"
    progress(f"locking {len(lines)} requirements for Python {version}{where}")
    text = _compile(lines, version, platform, like, cwd, timeout)
    _refuse_unlocked(text)
    number = len(re.findall(r"(?m)^[A-Za-z0-9]", text))
    lock = Lock(text, digest({"text": text, "python": version}), version, number, platform, lines)
    _remember(memory, lock)
    progress(f"locked {lock.packages} packages{where}")
    return lock


def also_for(lock: Lock, platform: str, *, cache: Path, progress: Callable[[str], None]) -> Lock:
    """The lock, of another platform as well. May be called again.

    Raises:
        FalplanError: as for `lock_requirements`.
    """
    if platform in lock.texts:
        return lock
    if lock.lines is None:
        detail = f"An older falplan locked it for {own_platform()} alone. `falplan taint` its build, then apply."
        raise FalplanError(f"The requirements are not locked for {platform}", detail)
    other = lock_requirements(
        lock.lines,
        python=lock.python,
        cache=cache,
        cwd=Path("/"),
        progress=progress,
        kind=AppKind.COMMAND,  # what serving adds is among the lines
        platform=platform,
        like=lock.text,
    )
    return replace(lock, others={**lock.others, platform: other.text})


def unhashed(text: str) -> list[str]:
    """Requirements of a lock that carry no hash."""
    return [line for line in pinned(text) if "--hash=" not in line]


def pinned(text: str) -> list[str]:
    """The requirements of a lock, a line each."""
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and line[0] not in "#- "]


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
        return lock_from_bytes(path.read_bytes())
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _remember(path: Path, lock: Lock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(lock_to_bytes(lock))
    fp("environment.lock.before_rename")
    temporary.replace(path)


def _compile(lines: Sequence[str], version: str, platform: str, like: str, cwd: Path, timeout: float) -> str:
    argv = ["pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    # Which Python runs counts only for building a source distribution: asking every one on the path takes longer than the rest.
    argv += ["--python", sys.executable, "--python-version", version]
    if platform != own_platform():
        if platform not in UV:
            raise FalplanError("Nothing is locked for that platform", f"{platform} is none of {', '.join(UV)}.")
        argv += ["--python-platform", UV[platform]]
    with tempfile.TemporaryDirectory() as folder:
        if like:  # uv takes the versions of the file that it would write, where it can
            Path(folder, "lock").write_text(like)
            argv += ["--output-file", f"{folder}/lock"]
        done = run_uv([*argv, "-"], "\n".join(lines) + "\n", cwd, timeout)
        if done.returncode != 0:
            raise FalplanError("The requirements can't be locked", f"{short(done.stderr)}\n{advice_on(done.stderr)}")
        return Path(folder, "lock").read_text() if like else done.stdout


UNREACHED = (
    "error sending request",
    "dns error",
    "connect error",
    "(connect)",
    "connection refused",
    "network is unreachable",
    "timed out",
)
"""What uv says where it did not get to an index."""


def advice_on(said: str) -> str:
    """What helps: requirements are not to blame where no index was reached."""
    if any(words in said.lower() for words in UNREACHED):
        return (
            "The control plane's machine locks for all hosts, and did not reach the package index: look at its network, its proxy "
            "(HTTPS_PROXY) and its index (UV_DEFAULT_INDEX). `install: push` spares hosts this, not the control plane."
        )
    if "no solution found" in said.lower():
        return "Change the app's requirements."
    return "Change the app's requirements, or make sure that the package index is reachable from the control plane's machine."


def _refuse_unlocked(text: str) -> None:
    for line in unhashed(text):
        if not re.search(r"git\+\S+@[0-9a-f]{40}", line):
            what = f"{without_credentials(line)} has no fixed contents."
            detail = f"{what} Name a version, a wheel or a Git commit; local code goes into the app's files."
            raise FalplanError("A requirement can't be locked", detail)
