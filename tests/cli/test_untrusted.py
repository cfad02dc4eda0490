"""`plan --untrusted` with specs of strangers: what they name is not read, run, asked or written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "version: 1\nproject: demo\n"
APP = "apps: {web: {command: 'python -m http.server', files: ['*.py']}}\n"
PLANTED = "planted-4711-value"

WATCH = """
import os, sys
log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def hook(event, args):
    if event in ("open", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "socket.connect", "socket.getaddrinfo"):
        os.write(log, (event + "\\t" + repr(args) + "\\n").encode("utf-8", "replace"))
sys.addaudithook(hook)
"""

HOSTILE = {
    "secret from the environment": "environments: {main: {secrets: {TOKEN: {env: PLANTED}}}}\n" + APP,
    "secret from a file": "environments: {main: {secrets: {TOKEN: {file: OUTSIDE}}}}\n" + APP,
    "secret from a file above": "environments: {main: {secrets: {TOKEN: {file: ../outside.txt}}}}\n" + APP,
    "secret from a command": "environments: {main: {secrets: {TOKEN: {command: [touch, ../made-by-spec]}}}}\n" + APP,
    "variable from the environment": "variables: {x: {env: PLANTED, default: none}}\n"
    "apps: {web: {command: 'x', files: ['*.py'], environment_variables: {X: '{{ var.x }}'}}}\n",
    "gateway elsewhere": "gateway: {url: 'https://127.0.0.1:9/'}\n" + APP,
    "certificate authority outside": "gateway: {url: 'https://127.0.0.1:9/', ca: ../outside.txt}\n" + APP,
    "files above": "apps: {web: {command: x, files: ['../outside.txt']}}\n",
    "a link to a file outside": "apps: {web: {command: x, files: ['link.txt']}}\n",
    "requirements outside": "apps: {web: {command: x, files: ['*.py'], requirements: ../outside.txt}}\n",
    "state above": "state: {path: ../elsewhere}\n" + APP,
    "code at import": "apps: {web: {app: 'evil.py::Evil'}}\n",
    "a template that reaches out": "apps: {web: {command: \"{{ ''.__class__.__mro__ }}\", files: ['*.py']}}\n",
    "an include": "apps: {web: {command: \"{% include '../outside.txt' %}\", files: ['*.py']}}\n",
    "a region's program": "regions: {here: {provider: local}}\n" + APP,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_a_strangers_spec_names_is_touched(tmp_path: Path, name: str) -> None:
    """Seen red with a plan that read the sources of secrets as ever, and with one that looked for its control plane."""
    root, outside = tmp_path / "repository", tmp_path / "outside.txt"
    root.mkdir()
    outside.write_text(PLANTED)
    (root / "falplan.yaml").write_text(HEAD + HOSTILE[name].replace("OUTSIDE", str(outside)))
    (root / "evil.py").write_text(
        "import fal, os\nopen('../made-by-spec', 'w')\nclass Evil(fal.App):\n    requirements = [os.environ['PLANTED']]\n"
    )
    (root / "link.txt").symlink_to(outside)
    watch = tmp_path / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "log"
    before = _names(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "falplan", "plan", "--untrusted", "--json"],
        cwd=root,
        env={
            **os.environ,
            "PLANTED": PLANTED,
            "FALPLAN_PROJECT_KEY": "not base64",
            "PYTHONPATH": os.pathsep.join([str(watch), os.environ.get("PYTHONPATH", ""), *sys.path]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "WATCH_LOG": str(log),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ran.returncode in (0, 3), ran.stderr
    if ran.returncode == 0:
        assert json.loads(ran.stdout)["resource_changes"]
    assert PLANTED not in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert _names(tmp_path) - before <= {"log"}
    for line in log.read_text().splitlines():
        event, _, args = line.partition("\t")
        assert not event.startswith("socket."), line
        if event == "open":
            assert "outside.txt" not in args, line
            assert "link.txt" not in args, line
        else:
            assert "template_child" in args, line


def _names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}
