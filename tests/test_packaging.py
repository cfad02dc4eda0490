"""What is installed is whole and nothing else: the wheel in an empty environment, and a checkout installed for development."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

from falplan import __version__

ROOT = Path(__file__).parents[1]
PACKAGED = ("falplan", "providers", "README.md", "LICENSE", "pyproject.toml")
"""What building a wheel reads."""

pytestmark = pytest.mark.xdist_group("packaging")


@dataclass
class Installed:
    """falplan in a virtual environment of its own, and a folder to work in."""

    venv: Path
    folder: Path

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def site(self) -> Path:
        return next((self.venv / "lib").glob("python*/site-packages"))

    def run(self, *argv: str) -> str:
        """Run a program of the environment where nothing of the checkout is on any path; its output."""
        environ = {
            k: v for k, v in os.environ.items() if not k.startswith(("FAL", "PYTHON", "XDG_", "COVERAGE")) and k != "CI"
        }
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environ |= {
            "PATH": path,
            "XDG_STATE_HOME": str(self.folder / "state"),
            "FALPLAN_MACHINE_DIR": str(self.folder / "ledger"),
            "NO_COLOR": "1",
        }
        done = subprocess.run(argv, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("sources")
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `pip install .` builds it: by hatchling."""
    target = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--quiet", "--python", sys.executable, "--out-dir", str(target), str(sources))
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Both ways to install."""
    folder = tmp_path_factory.mktemp(request.param)
    venv = folder / "venv"
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    what = {
        "wheel": lambda: [str(request.getfixturevalue("wheel"))],
        "editable": lambda: ["-e", str(request.getfixturevalue("sources"))],
    }
    uv("pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), *what[request.param]())
    (folder / "work").mkdir()
    yield Installed(venv, folder / "work")
    shutil.rmtree(folder, ignore_errors=True)


def uv(*args: str) -> None:
    done = subprocess.run([find_uv_bin(), *args], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr


def test_the_command_prints_its_version_and_help(installed: Installed) -> None:
    assert installed.run("falplan", "version").startswith(f"falplan {__version__}\n")
    assert "Commands:" in installed.run("falplan", "--help")
    assert installed.run(str(installed.python), "-m", "falplan", "version") == installed.run("falplan", "version")


def test_init_writes_a_project_that_is_valid(installed: Installed) -> None:
    project = installed.folder / "project"
    project.mkdir()

    assert "Wrote falplan.yaml" in installed.run("falplan", "-C", str(project), "init")
    assert "The spec is valid" in installed.run("falplan", "-C", str(project), "validate")
    assert "to add" in installed.run("falplan", "-C", str(project), "plan")


def test_providers_and_data_are_found(installed: Installed) -> None:
    code = (
        "import importlib.resources as r, falplan, falplan.stores.runtime.database, falplan_providers.local\n"
        "print(*(p.name for f in ('runner', 'stores/runtime', 'stores/runtime/versions') for p in r.files(falplan).joinpath(f).iterdir()))"
    )
    names = installed.run(str(installed.python), "-c", code).split()

    assert {
        "supervisor.py",
        "fal_server.py",
        "agent.py",
        "ledger.py",
        "processes.py",
        "rules.py",
        "schema.sql",
        "0001_requests.py",
    } <= set(names)


def test_nothing_stray_is_installed(installed: Installed) -> None:
    ours = {"falplan", "falplan_providers"}
    editable = {f"_editable_impl_falplan{suffix}" for suffix in (".pth", ".py")} | {"_falplan.pth", "falplan.pth"}
    listed = {
        line.split(",")[0].split("/")[0]
        for info in installed.site.glob("falplan-*.dist-info")
        for line in (info / "RECORD").read_text().splitlines()
    }
    inside = {name for name in listed if name != ".."}  # `../../../bin/falplan` is the command

    assert inside - editable <= ours | {f"falplan-{__version__}.dist-info"}
    assert (installed.venv / "bin" / "falplan").exists()


def test_the_wheel_holds_every_module_migration_and_type_marker_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(base).as_posix()
        for base in (ROOT, ROOT / "providers")
        for path in (base / ("falplan" if base == ROOT else "falplan_providers")).rglob("*")
        if path.suffix in (".py", ".sql", ".typed") or path.name == "py.typed"
    }

    assert expected <= names
    assert {n.split("/")[0] for n in names} == {"falplan", "falplan_providers", f"falplan-{__version__}.dist-info"}
    assert not [n for n in names if "/tests/" in n or n.endswith(".pyc")]
