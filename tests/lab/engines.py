"""Docker and Podman of a test's own: their images, containers and networks are in a folder and a namespace that go away with them.

Images are made here, of this Python and what it loads: no registry is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.networks import NETWORKS, PREFIX, remove_network, run, within

SERVER = """
import http.server, json, os, signal, sys, time
if "BEFORE" in os.environ: exec(os.environ["BEFORE"])
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = {"version": VERSION, "host": os.uname().nodename, "env": dict(os.environ), "argv": sys.argv[1:]}
        if "blow" in self.path: answer["blown"] = len(b"x" * (600 << 20))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *a): pass
def end(*_):
    print("told to end", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
print("\\x1frequest-7\\x1fof a request", flush=True)
print("wrong", file=sys.stderr, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), H).serve_forever()
"""

CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1000:1000"]
netns = "slirp4netns"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""As little as a sandbox allows: no limit is raised, no other cgroup asked for, and nothing changed in this machine's network."""


def make_tree(folder: Path) -> Path:
    """The files of an image: this Python, the modules that the server needs, and the libraries of both."""
    code = "import http.server, json, os, signal, sys, encodings.idna, ctypes\nfor m in list(sys.modules.values()): print(getattr(m, '__file__', '') or '')"
    asked = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sys.base_prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    files = {program, *(Path(line) for line in asked.splitlines() if line), *(library / "encodings").glob("*.py")}
    files |= {library / "os.py"}
    linked = [str(f) for f in files if f.suffix == ".so" or f == program]
    for line in subprocess.run(["ldd", *linked], capture_output=True, text=True, check=False).stdout.splitlines():
        files |= {Path(word) for word in line.split() if word.startswith("/") and not word.endswith(":")}
    for path in files:
        target = folder / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    (folder / "tmp").mkdir(mode=0o1777, exist_ok=True)
    (library_there := folder / str(library).lstrip("/") / "lib-dynload").mkdir(parents=True, exist_ok=True)
    assert library_there.is_dir()
    return program


def make_archive(folder: Path, version: int, server: str) -> tuple[Path, list[str]]:
    """A tar of an image's files, and the command that serves in it."""
    tree = folder / "tree"
    program = make_tree(tree) if not tree.exists() else Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (tree / "server.py").write_text(server)
    archive = folder / f"image-{version}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    return archive, [str(program), "-I", "-u", "/server.py"]


@dataclass(frozen=True)
class EngineLab:
    """An engine: `podman` or `docker`, what its client needs of the environment, and the network namespace it is in, if any."""

    name: str
    folder: Path
    environ: Mapping[str, str]
    network: str = ""

    def ask(self, *args: str, check: bool = True) -> str:
        done = subprocess.run(
            [self.name, *args],
            capture_output=True,
            text=True,
            env={**os.environ, **self.environ},
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{self.name} {' '.join(args)}: {done.stderr}"
        return done.stdout.strip()

    def make_image(self, version: int, name: str = "localhost/app", server: str = SERVER, env: str = "") -> str:
        """The id of an image whose server answers with this version."""
        archive, command = make_archive(self.folder, version, server.replace("VERSION", str(version)))
        told = ["--change", f"CMD {json.dumps(command)}", *(["--change", f"ENV {env}"] if env else [])]
        found = self.ask(
            "import", *(("--quiet",) if self.name == "podman" else ()), *told, str(archive), f"{name}:{version}"
        )
        archive.unlink()
        return found if found.startswith("sha256:") else f"sha256:{found}"

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Let this process, and what it starts, use this engine and no other one."""
        for name, value in self.environ.items():
            patch.setenv(name, value)
        patch.setenv("PATH", path_without({"podman", "docker"} - {self.name}, self.folder / "path"))

    def containers(self) -> list[str]:
        """Names of all containers, ended ones too."""
        return self.ask("ps", "--all", "--format", "{{.Names}}").split()

    def images(self) -> list[str]:
        return sorted(set(self.ask("images", "--quiet", "--no-trunc").split()))


def path_without(names: set[str], folder: Path) -> str:
    """A search path that leads to all programs but these."""
    if not folder.exists():
        folder.mkdir()
        for part in reversed(os.environ["PATH"].split(os.pathsep)):
            for program in Path(part).glob("*"):
                link = folder / program.name
                link.unlink(missing_ok=True)
                if program.name not in names:
                    link.symlink_to(program)
    return str(folder)


REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/blobs}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}
"""


@dataclass(frozen=True)
class Registry:
    """A real registry on loopback, where this thread's network is. It lets `lab` in, with `password`."""

    where: str
    password: str

    def log_in(self, engine: EngineLab) -> None:
        plain = ["--tls-verify=false"] if engine.name == "podman" else []
        engine.ask("login", *plain, "--username", "lab", "--password", self.password, self.where)

    def push(self, engine: EngineLab, image: str, name: str) -> str:
        """The name of the image by its digest, once it lies there alone."""
        tagged = f"{self.where}/{name}:1"
        engine.ask("tag", image, tagged)
        if engine.name == "podman":
            file = engine.folder / "digest"
            engine.ask("push", "--tls-verify=false", "--digestfile", str(file), tagged)
            digest = file.read_text().strip()
        else:
            digest = engine.ask("push", tagged).rpartition("digest: ")[2].split()[0]
        return f"{self.where}/{name}@{digest}"


@contextlib.contextmanager
def registry(engine: EngineLab) -> Iterator[Registry]:
    """A registry, and an engine that may speak with it without TLS, and keeps its logins in the engine's own folder."""
    import bcrypt  # paramiko brings it

    folder, password = engine.folder / "registry", "let-me-in"
    folder.mkdir()
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "htpasswd").write_text(f"lab:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
    (folder / "config.yml").write_text(REGISTRY.format(folder=folder, port=port))
    (engine.folder / "registries.conf").write_text(f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n')
    argv = ["docker-registry", "serve", str(folder / "config.yml")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}  # its settings
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environ)
    try:
        give_up = time.monotonic() + 20
        while not _listens(port):
            assert time.monotonic() < give_up and process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.02)
        yield Registry(f"127.0.0.1:{port}", password)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def podman() -> Iterator[EngineLab]:
    """Podman with all that it keeps in a folder of its own. Its containers' ports are this machine's loopback ports."""
    folder = Path(tempfile.mkdtemp(prefix="fpf-podman-"))
    (folder / "containers.conf").write_text(CONTAINERS)
    places = f'[storage]\ndriver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/graph"\n'
    (folder / "storage.conf").write_text(places)
    names = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
    names |= {"CONTAINERS_REGISTRIES_CONF": "registries.conf", "REGISTRY_AUTH_FILE": "auth.json"}
    (folder / "registries.conf").write_text("")
    (folder / "auth.json").write_text("{}")
    lab = EngineLab("podman", folder, {name: str(folder / file) for name, file in names.items()})
    try:
        yield lab
    finally:
        lab.ask("rm", "--all", "--force", "--time", "0", check=False)
        run("umount", "--recursive", f"{folder}/graph/overlay", check=False)
        shutil.rmtree(folder)


@contextlib.contextmanager
def docker() -> Iterator[EngineLab]:
    """A Docker daemon in a network namespace of its own, where this thread is, too, for as long as it lives."""
    folder = Path(tempfile.mkdtemp(prefix="fpf-docker-"))
    network = f"{PREFIX}-{os.getpid()}-docker"
    run("ip", "netns", "add", network)
    daemon: subprocess.Popen[bytes] | None = None
    try:
        with within(network), (folder / "log").open("wb") as log:
            run("ip", "link", "set", "lo", "up")
            program = shutil.which("dockerd") or "/usr/sbin/dockerd"
            places = [f"--{n}={folder}/{n}" for n in ("data-root", "exec-root", "pidfile")]
            argv = [program, *places, "-H", f"unix://{folder}/docker.sock"]
            daemon = subprocess.Popen(argv, stdout=log, stderr=log)
            environ = {"DOCKER_HOST": f"unix://{folder}/docker.sock", "DOCKER_CONFIG": f"{folder}/config"}
            lab = EngineLab("docker", folder, environ, network)
            give_up = time.monotonic() + 60
            while not lab.ask("version", "--format", "{{.Server.Version}}", check=False):
                assert time.monotonic() < give_up and daemon.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.05)
            try:
                yield lab
            finally:
                for name in lab.containers():
                    lab.ask("rm", "--force", name, check=False)
    finally:
        if daemon is not None:
            daemon.terminate()
            daemon.wait(30)
        if (NETWORKS / network).exists():
            remove_network(network)
        run("umount", "--recursive", f"{folder}/data-root", check=False)
        shutil.rmtree(folder, ignore_errors=True)
