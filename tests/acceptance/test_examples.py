"""Every example is valid, and those that fit on one machine are deployed, answer and go away again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sandbox import Sandbox
from tests.lab.engines import podman

EXAMPLES = Path(__file__).parents[2] / "examples"
PROJECTS = sorted(path.parent.name for path in EXAMPLES.glob("*/falplan.yaml"))

pytestmark = pytest.mark.xdist_group("examples")


@pytest.fixture
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A copy of an example, in a sandbox."""
    sandbox = Sandbox()
    try:
        shutil.rmtree(sandbox.project)
        ignored = shutil.ignore_patterns(".falplan", "__pycache__")
        shutil.copytree(EXAMPLES / request.param, sandbox.project, ignore=ignored)
        yield sandbox
    finally:
        sandbox.clean()


def test_every_folder_with_a_spec_is_deployed_here() -> None:
    assert PROJECTS == ["container", "hello", "server"]


@pytest.mark.parametrize("name", [*PROJECTS, "reference.yaml"])
def test_an_example_is_valid(name: str) -> None:
    where = ["-C", str(EXAMPLES / name)] if name in PROJECTS else ["-f", str(EXAMPLES / name)]
    ran = subprocess.run(
        [sys.executable, "-m", "falplan", *where, "validate"], capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 0, ran.stderr
    assert "The spec is valid" in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("name", [*PROJECTS, "reference.yaml"])
def test_an_example_is_in_the_standard_format(name: str) -> None:
    where = ["-C", str(EXAMPLES / name)] if name in PROJECTS else ["-f", str(EXAMPLES / name)]
    ran = subprocess.run(
        [sys.executable, "-m", "falplan", *where, "fmt", "--check"], capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("box", ["hello"], indirect=True)
def test_hello_is_deployed_answers_its_client_and_is_destroyed(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    out = box.must("exec", "--", sys.executable, str(box.project / "client.py")).out

    assert out.count("log: greeting falplan\n") == 1
    assert "subscribe: {'greeting': 'Hello, falplan!', 'calls': 1}" in out
    assert "run: {'greeting': 'Hello, fal!', 'calls': 2}" in out
    box.check_converged()
    box.destroy()


@pytest.mark.parametrize("box", ["server"], indirect=True)
def test_server_is_deployed_answers_without_a_key_and_is_destroyed(box: Sandbox) -> None:
    import urllib3

    box.must("apply", "--auto-approve")
    environ = json.loads(box.must("env", "--json").out)
    pool = urllib3.PoolManager(ca_certs=environ["SSL_CERT_FILE"], retries=False)
    answer = pool.request("POST", f"https://{environ['FAL_RUN_HOST']}/demo/echo", json={"n": 1}, timeout=60)
    pool.clear()

    assert answer.json() == {"path": "/", "echo": {"n": 1}}
    assert json.loads(box.must("call", "--no-logs", "echo", '{"n": 2}').out) == {"path": "/", "echo": {"n": 2}}
    box.check_converged()
    box.destroy()


@pytest.mark.needs("podman")
@pytest.mark.needs("slirp4netns")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for an engine of the test's own")
@pytest.mark.parametrize("box", ["container"], indirect=True)
def test_container_is_deployed_answers_and_is_destroyed(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an image of this machine's Python: no registry is asked for the one that its Containerfile names."""
    with podman() as engine:
        engine.use(monkeypatch)
        engine.make_image(1, "localhost/echo", (EXAMPLES / "container/server.py").read_text(), "PORT=8000")
        box.must("apply", "--auto-approve")

        assert json.loads(box.must("call", "--no-logs", "echo", '{"n": 1}').out) == {"path": "/", "echo": {"n": 1}}
        box.destroy()
        assert engine.containers() == [] and len(engine.images()) == 1
