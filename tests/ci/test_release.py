"""What releases are built with is pinned by hash, and building one twice gives the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from falplan import __version__

from .conftest import SECRETS
from .runner import ROOT, Machine, Run, read_yaml

LOCKED, BUILD = ROOT / ".ci" / "requirements" / "locked.txt", ROOT / ".ci" / "requirements" / "build.txt"
PACKAGED = ("falplan", "providers", ".ci", "README.md", "LICENSE", "pyproject.toml")


def pins(file: Path) -> dict[str, Requirement]:
    """Package -> its pin. Every line is one, with a hash for each file that may be installed."""
    found: dict[str, Requirement] = {}
    for block in re.split(r"(?<!\\)\n", file.read_text()):
        if not block or block.startswith("#"):
            continue
        pin, *hashes = block.replace("\\\n", "").split("--hash=")
        assert hashes, f"{pin} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes), pin
        requirement = Requirement(pin.strip())
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), pin
        found[canonicalize_name(requirement.name)] = requirement
    return found


def declared() -> list[Requirement]:
    body = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(r) for r in [*body["project"]["dependencies"], *body["build-system"]["requires"]]]


def test_everything_that_falplan_needs_is_pinned_by_hash() -> None:
    """Seen red with a dependency that was added without `make locks`."""
    locked = pins(LOCKED)
    for requirement in declared():
        pin = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), requirement


def test_what_builds_releases_is_pinned_by_hash_and_builds_as_the_setup_action_does() -> None:
    build, locked = pins(BUILD), pins(LOCKED)

    assert {"build", "cyclonedx-bom", "hatchling"} <= set(build)
    assert build["hatchling"].specifier == locked["hatchling"].specifier


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_the_release_workflow_builds_the_same_bytes_twice_and_lists_what_is_in_them(tmp_path: Path) -> None:
    """Its steps as they are, with pip and the registry. Two builds were seen to differ with hatchling's `reproducible = false`."""
    machine = Machine(
        tmp_path, "http://127.0.0.1:9", {}, SECRETS, {"GITHUB_REF_NAME": f"v{__version__}", "PYTHONPATH": ""}
    )
    copy_sources(machine.origin)
    machine.commit()
    job = read_yaml(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["build"]
    run = Run(machine, 0, {"needs": {}})
    ended = run.steps(job["steps"], inputs={}, environ={})

    assert not ended.failed, ended.log
    built = {p.name for p in machine.artifact("dist").iterdir()}
    assert built == {f"falplan-{__version__}-py3-none-any.whl", f"falplan-{__version__}.tar.gz"}
    assert f"falplan {__version__}" in ended.log
    sbom = json.loads((machine.artifact("sbom") / "falplan.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(c["name"]) for c in sbom["components"]} == set(pins(LOCKED))
    assert sbom["metadata"]["component"]["name"] == "falplan"


def copy_sources(folder: Path) -> None:
    folder.mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
