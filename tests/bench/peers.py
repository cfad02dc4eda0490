"""pyinfra and ansible-core in a virtual environment of their own, and how each is told what to do on a fleet of loopback hosts.

Both get the settings with which they are fastest and still check host keys:

- ansible: as many forks as hosts, at most 50; pipelining; connections kept by OpenSSH (ControlPersist); no facts gathered; no search
  for an interpreter. Its kept connections are shown cold and warm.
- pyinfra: as many hosts at once as there are, by its own default limit of open files at most 100; no compression; its fastest file transfer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.bench.clients import Tool
from tests.lab.loopback import LoopbackHost

VERSIONS = ("pyinfra==3.10.0", "ansible-core==2.19.14")
"""Versions that the text above was written for."""

ANSIBLE = """\
[defaults]
forks = {forks}
gathering = explicit
host_key_checking = True
interpreter_python = {python}
nocows = True
retry_files_enabled = False
[ssh_connection]
pipelining = True
control_path_dir = {folder}/cp
ssh_args = -F none -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={folder}/known_hosts -o IdentitiesOnly=yes
"""


def make_environment(folder: Path) -> Path:
    """A virtual environment with both: the folder of its programs. `BENCH_PEERS` names one that is there already."""
    given = os.environ.get("BENCH_PEERS")
    if given:
        return Path(given, "bin")
    venv.create(folder, with_pip=False, symlinks=True)
    argv = [find_uv_bin(), "pip", "install", "-q", "--python", str(folder / "bin" / "python"), *VERSIONS]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"pyinfra and ansible-core can't be installed: {done.stderr.strip()[-300:]}")
    return folder / "bin"


@dataclass(frozen=True, slots=True)
class Peers:
    """Both, told of the same hosts. `folder` has their inventories."""

    programs: Path
    folder: Path
    hosts: Sequence[LoopbackHost]

    def write(self) -> Peers:
        """Write inventories and settings."""
        self.folder.mkdir()
        known = "".join(f"[{h.address}]:{h.port} {_public_key(h)}\n" for h in self.hosts)
        (self.folder / "known_hosts").write_text(known)
        forks = min(50, len(self.hosts))
        settings = ANSIBLE.format(forks=forks, python=sys.executable, folder=self.folder)
        (self.folder / "ansible.cfg").write_text(settings)
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": dict(map(_for_ansible, self.hosts))}}))
        (self.folder / "hosts.py").write_text(f"hosts = {[_for_pyinfra(h, self.folder) for h in self.hosts]!r}\n")
        return self

    def ansible(self, program: str = "ansible-playbook") -> Tool:
        """`ansible` or `ansible-playbook`, with its inventory."""
        environ = {**os.environ, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_HOME": str(self.folder)}
        environ |= {"LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
        argv = [str(self.programs / program), "-i", str(self.folder / "hosts.json")]
        return Tool(argv, self.folder, environ, mark=f"{self.folder}/cp/")

    def pyinfra(self) -> Tool:
        """`pyinfra`, with its inventory."""
        at_once = min(100, len(self.hosts))
        argv = [str(self.programs / "pyinfra"), "-y", "--parallel", str(at_once), str(self.folder / "hosts.py")]
        return Tool(argv, self.folder, {**os.environ, "LC_ALL": "C.UTF-8"})

    def playbook(self, name: str, *tasks: object) -> str:
        """The path of a playbook with these tasks."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "strategy": "free", "tasks": tasks}]))
        return str(path)

    def deploy(self, name: str, text: str) -> str:
        """The path of a pyinfra deploy with this text."""
        path = self.folder / f"{name}.py"
        path.write_text("from pyinfra import host\nfrom pyinfra.operations import files, server\n" + text)
        return str(path)


def _public_key(host: LoopbackHost) -> str:
    return (host.folder / "host_ed25519.pub").read_text().strip()


def _for_ansible(host: LoopbackHost) -> tuple[str, dict[str, object]]:
    return host.folder.name, {
        "ansible_host": host.address,
        "ansible_port": host.port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(host.client_key),
        "ansible_remote_tmp": f"{host.folder}/home/.ansible/tmp",
        "home": f"{host.folder}/home",
    }


def _for_pyinfra(host: LoopbackHost, folder: Path) -> tuple[str, dict[str, object]]:
    return host.folder.name, {
        "ssh_hostname": host.address,
        "ssh_port": host.port,
        "ssh_user": "root",
        "ssh_key": str(host.client_key),
        "ssh_known_hosts_file": str(folder / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
        "_temp_dir": f"{host.folder}/home",
        "home": f"{host.folder}/home",
    }
