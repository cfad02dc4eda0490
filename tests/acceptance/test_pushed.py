"""Apps with packages on hosts that reach no package index: the control plane fetches wheels, and brings them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.sandbox import Sandbox
from tests.lab.loopback import LoopbackHost
from tests.lab.pythons import another_python

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]

SERVER = """
import http.server, json, os
import falplan_pushed_built, falplan_pushed_ready
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        answer = json.dumps([falplan_pushed_built.SAYS, falplan_pushed_ready.SAYS]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""

BACKEND = """
import hashlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "falplan_pushed_built-1.0-py3-none-any.whl"
    info = "falplan_pushed_built-1.0.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("falplan_pushed_built.py", "SAYS = 'built'\\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: falplan-pushed-built\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def make_index(folder: Path) -> None:
    """A wheel, and a source distribution that has to be built: packages that no index in the world has."""
    folder.mkdir()
    info = "falplan_pushed_ready-1.0.dist-info"
    with zipfile.ZipFile(folder / "falplan_pushed_ready-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("falplan_pushed_ready.py", "SAYS = 'ready'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: falplan-pushed-ready\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "falplan-pushed-built"\nversion = "1.0"\n',
        "backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.1\nName: falplan-pushed-built\nVersion: 1.0\n",
    }
    with tarfile.open(folder / "falplan_pushed_built-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"falplan_pushed_built-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


def write(box: Sandbox, host: LoopbackHost, **options: str) -> None:
    body = {"address": host.address, "port": host.port, "host_key": list(host.keys.values())}
    region = {
        "provider": "ssh",
        "user": "root",
        "identity_file": str(host.client_key),
        "hosts": {"one": body},
        **options,
    }
    app = {
        "command": ["python", "server.py"],
        "files": ["server.py"],
        "requirements": ["falplan-pushed-built==1.0", "falplan-pushed-ready==1.0"],
        "machine_type": "XS",
        "regions": ["lab"],
        "min_concurrency": 1,
        "health_check": {"path": "/"},
    }
    spec = {"version": 1, "project": "pushed", "owner": "acme", "gateway": {"ephemeral": True}}
    spec |= {"regions": {"lab": region}, "apps": {"web": app}}
    (box.project / "falplan.yaml").write_text(json.dumps(spec))
    (box.project / "server.py").write_text(SERVER)


@pytest.mark.faults
def test_wheels_are_fetched_or_built_here_and_brought_to_a_host_without_an_index(
    box: Sandbox, make_host: Callable[..., LoopbackHost], tmp_path: Path
) -> None:
    make_index(tmp_path / "index")
    host = make_host("one")
    indexes = {"UV_FIND_LINKS": str(tmp_path / "index"), "UV_NO_INDEX": "1", "PIP_NO_INDEX": "1"}
    write(box, host)
    without = box.run("apply", "--auto-approve", **indexes)
    write(box, host, install="push")
    told = box.must("apply", "--auto-approve", **indexes).err
    called = box.must("call", "web", "{}").out
    (root,) = (p for p in (host.folder / "home" / ".local/share/falplan").iterdir())
    left = sorted(p.name for p in (root / "uv" / "wheels").iterdir())
    fetched = sorted(p.name for p in (box.folder / "state").rglob("*.whl"))
    (brought,) = (p.name for p in (root / "uv").iterdir() if p.name not in ("cache", "wheels"))
    (root / "uv" / f"{brought.rpartition('-')[0]}-1").mkdir()
    box.must("prune")
    uvs = sorted(p.name for p in (root / "uv").iterdir())
    box.destroy()

    assert without.code == 1
    assert "falplan-pushed-built was not found" in without.err, "the host asks an index that does not have it"
    assert json.loads(called) == ["built", "ready"]
    assert fetched == ["falplan_pushed_built-1.0-py3-none-any.whl", "falplan_pushed_ready-1.0-py3-none-any.whl"]
    assert "app.main.web: lab/one: bringing the app's files there" in without.err
    assert "app.main.web: lab/one: bringing 2 wheels there" in told
    assert left == [], "they are needed only once"
    assert uvs == ["cache", brought, "wheels"], "an earlier release's goes; seen red with uvs that nobody pruned"


@pytest.mark.faults
@pytest.mark.skipif(another_python() is None, reason="needs two Pythons of different versions on this machine")
def test_wheels_are_fetched_for_a_python_that_is_not_here(
    box: Sandbox, make_host: Callable[..., LoopbackHost], tmp_path: Path
) -> None:
    found = another_python()
    assert found is not None
    version, program = found
    make_index(tmp_path / "index")
    host = make_host("one", start=False)
    (host.folder / "bin").mkdir()
    (host.folder / "bin" / program.name).symlink_to(program)
    host.path = f"{host.folder}/bin:/usr/bin:/bin"
    host.start()
    write(box, host, install="push")
    spec = json.loads((box.project / "falplan.yaml").read_text())
    spec["apps"]["web"]["python_version"] = version
    (box.project / "falplan.yaml").write_text(json.dumps(spec))
    indexes = {"UV_FIND_LINKS": str(tmp_path / "index"), "UV_NO_INDEX": "1", "PIP_NO_INDEX": "1"}
    box.must("apply", "--auto-approve", PATH="/usr/bin:/bin", **indexes)
    called = box.must("call", "web", "{}").out
    made = sorted(p.name for p in host.folder.rglob("python*") if p.parent.name == "bin" and "environments" in p.parts)
    box.destroy()

    assert json.loads(called) == ["built", "ready"]
    assert f"python{version}" in made
