"""Requirements are locked once, environments built once, and half-built ones never used."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from falplan.control.environments import ensure_environment, environment_key, remove_environments_except
from falplan.control.indexes import uv_environment, without_credentials
from falplan.control.locks import Lock, lock_requirements
from falplan.core.errors import FalplanError
from falplan.core.spec.resolved import AppKind
from falplan.sdk.here import own_platform
from falplan_providers.local import LocalShell
from tests.lab.index import Index
from tests.runner.machine import until


def a_lock(tmp_path: Path, *requirements: str) -> Lock:
    return lock_requirements(requirements, python=None, cache=tmp_path / "cache", cwd=tmp_path, kind=AppKind.COMMAND)


def key_of(lock: Lock) -> str:
    return environment_key(lock.text, lock.python, own_platform())


def test_a_lock_has_versions_and_hashes_and_stays_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    lock = lock_requirements(
        ["six"], python=None, cache=tmp_path, cwd=tmp_path, kind=AppKind.COMMAND, progress=said.append
    )
    again = lock_requirements(
        ["six"], python=None, cache=tmp_path, cwd=tmp_path, kind=AppKind.COMMAND, progress=said.append
    )

    anew = lock_requirements(
        ["six"], python=None, cache=tmp_path, cwd=tmp_path, kind=AppKind.COMMAND, progress=said.append, anew=True
    )

    assert lock == again == anew and lock.packages == 1
    assert lock.text.startswith("six==") and "--hash=sha256:" in lock.text
    assert said == [f"locking 1 requirements for Python {lock.python}", "locked 1 packages"] * 2


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("no-such-package-anywhere-9==1", "can't be locked"),
        ("six==1.16.0 six<1", "can't be locked"),
        ("-e .", "can't be locked"),
    ],
)
def test_what_cannot_be_locked_is_told_in_uvs_words(tmp_path: Path, requirement: str, message: str) -> None:
    with pytest.raises(FalplanError, match=message):
        a_lock(tmp_path, requirement)


def test_two_builders_build_once(tmp_path: Path) -> None:
    lock, root = a_lock(tmp_path, "six"), str(tmp_path / "m")
    said: list[str] = []
    found: list[str] = []

    def build() -> None:
        found.append(ensure_environment(LocalShell(), root, key_of(lock), lock, progress=said.append))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 1 and len(found) == 2
    assert len([line for line in said if line.startswith("Installed")]) == 1
    assert subprocess.run([found[0], "-c", "import six"], check=False).returncode == 0


def test_a_builder_killed_midway_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    """Seen red with a builder that left what another had half built; with one that went on with it: no interpreter.

    And with one whose uv did not die with it.
    """
    lock, root = a_lock(tmp_path, "six"), tmp_path / "m"
    key = key_of(lock)
    slow = tmp_path / "uv"
    slow.write_text(
        '#!/bin/sh\nif [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; exec sleep 600; fi\n'
    )
    slow.chmod(0o755)
    code = (
        "import json, sys\nfrom falplan_providers.local import LocalShell\nfrom falplan.control.environments import *\n"
        f"lock = Lock(**json.loads(sys.stdin.read()))\nensure_environment(LocalShell(), {str(root)!r}, {key!r}, lock, uv={str(slow)!r}, progress=print)"
    )
    import json
    from dataclasses import asdict

    import psutil

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=env) as builder:
        assert builder.stdin
        builder.stdin.write(json.dumps(asdict(lock)).encode())
        builder.stdin.close()
        until(lambda: list(root.glob("environments/*.part-*")))
        processes = psutil.Process(builder.pid).children(recursive=True)
        for process in [*processes[:1], psutil.Process(builder.pid)]:
            process.kill()
    assert list(root.glob("environments/*.part-*"))

    python = ensure_environment(LocalShell(), str(root), key, lock)
    assert subprocess.run([python, "-c", "import six"], check=False).returncode == 0
    assert not list(root.glob("environments/*.part-*"))
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in processes))


def test_an_environment_without_its_marker_is_built_again(tmp_path: Path) -> None:
    """Seen red with a builder that took a folder for a whole environment: its interpreter was missing."""
    lock, root = a_lock(tmp_path, "six"), str(tmp_path / "m")
    python = Path(ensure_environment(LocalShell(), root, key_of(lock), lock))
    (python.parent.parent / "falplan-environment.json").unlink()
    python.unlink()

    assert ensure_environment(LocalShell(), root, key_of(lock), lock) == str(python)
    assert python.exists()


def test_an_environment_is_of_the_interpreter_that_a_link_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with the link's own path: the environment found a library of another Python above it, and no module of its own."""
    lock, link = a_lock(tmp_path, "six"), tmp_path / "usr/local/bin/python3"
    library = tmp_path / "usr/lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (library, link.parent):
        folder.mkdir(parents=True)
    (library / "os.py").write_text("raise SystemExit('the wrong library')\n")
    link.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(LocalShell, "python", property(lambda shell: str(link)))

    python = ensure_environment(LocalShell(), str(tmp_path / "m"), key_of(lock), lock)
    assert subprocess.run([python, "-c", "import six"], check=False).returncode == 0


def test_a_build_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    """Seen red with a builder that ignored uv's exit status; and with one that left what it had built so far."""
    lock = Lock(
        "six==1.17.0 --hash=sha256:" + "0" * 64 + "\n", "d", f"{sys.version_info.major}.{sys.version_info.minor}", 1
    )
    with pytest.raises(FalplanError, match=r"(?s)can't be built.*[Hh]ash"):
        ensure_environment(LocalShell(), str(tmp_path / "m"), "k", lock)

    assert [p.name for p in (tmp_path / "m/environments").iterdir()] == ["k.lock"]


def late_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], missing: int) -> str:
    """The interpreter of an environment whose index forgets for a while what it told when the requirements were locked."""
    index = Index(tmp_path / "index")
    index.wheel("falplan_late", "1.0")
    index.wheel("falplan_late", "2.0")
    with index.served(late="falplan_late-2.0-py3-none-any.whl", missing=missing) as environment:
        for name, value in {**environment, "UV_CACHE_DIR": str(tmp_path / "locking")}.items():
            monkeypatch.setenv(name, value)
        lock = a_lock(tmp_path, "falplan-late")
        root, cache = str(tmp_path / "m"), str(tmp_path / "building")
        return ensure_environment(LocalShell(), root, key_of(lock), lock, cache=cache, progress=said.append)


def test_an_index_that_does_not_know_a_release_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with a builder that asked once: a release of that minute, which one of an index's servers did not have, failed the build.

    And with one that asked again, and got what uv remembered.
    """
    said: list[str] = []
    python = late_release(tmp_path, monkeypatch, said, missing=1)

    code = "import importlib.metadata; print(importlib.metadata.version('falplan-late'))"
    assert subprocess.run([python, "-c", code], check=False, capture_output=True, text=True).stdout == "2.0\n"
    assert [line for line in said if "asking again" in line] == [
        "the package index does not know all of it yet: asking again in 1 s"
    ]


def test_environments_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    lock, root = a_lock(tmp_path, "six"), str(tmp_path / "m")
    ensure_environment(LocalShell(), root, key_of(lock), lock)

    assert remove_environments_except(LocalShell(), root, {key_of(lock)}) == []
    assert remove_environments_except(LocalShell(), root, set()) == [key_of(lock)]


def test_uv_hears_of_pips_indexes_unless_it_has_its_own(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://user:pw@host/simple\nextra-index-url =\n  https://a/\n  https://b/\n"
    )
    environ = {"PIP_CONFIG_FILE": str(config), "PIP_FIND_LINKS": "/wheels"}
    found = uv_environment(environ, tmp_path)

    assert found["UV_DEFAULT_INDEX"] == "https://user:pw@host/simple"
    assert (found["UV_EXTRA_INDEX_URL"], found["UV_FIND_LINKS"]) == ("https://a/ https://b/", "/wheels")
    assert "UV_DEFAULT_INDEX" not in uv_environment({**environ, "UV_INDEX": "https://c/"}, tmp_path)


def test_credentials_are_struck_out() -> None:
    assert without_credentials("at https://user:pw@host/x") == "at https://***@host/x"
