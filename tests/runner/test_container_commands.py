"""What the command of a container says, and how the machine's network and an image's name are read. No engine is asked."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from falplan.runner import containers, images

A, B = "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", "GPU-00000000-d268-c3f3-1b07-005d5ae1dc3f"
DIGEST = "@sha256:" + "a" * 64


def test_a_container_gets_its_limits_its_port_and_its_labels() -> None:
    wanted = {"engine": "podman", "image": "sha256:x", "port": 8000, "vcpu": 0.5, "gpus": []}
    argv = containers.compose(
        "/root/fp/runners/r1", {"runner_id": "r1", "container": wanted, "memory_limit": 5e8}, 21000
    )
    words = " ".join(argv)

    assert argv[:4] == ["podman", "run", "--name", "falplan-r1"]
    assert "--publish 127.0.0.1:21000:8000 " in words
    assert "--label falplan.home=/root/fp --label falplan.runner=r1" in words
    assert words.endswith("--cpus 0.50 --memory 500000000 --memory-swap 500000000")
    assert "no-new-privileges" in words and "--pull never" in words and "--log-driver none" in words


@pytest.mark.parametrize(
    ("engine", "gpus", "words"),
    [
        ("docker", [A, B], ["--gpus", f'"device={A},{B}"', "--env", f"NVIDIA_VISIBLE_DEVICES={A},{B}"]),
        ("podman", [A], ["--device", f"nvidia.com/gpu={A}", "--env", "NVIDIA_VISIBLE_DEVICES=void"]),
        ("docker", [], ["--env", "NVIDIA_VISIBLE_DEVICES=void"]),
    ],
)
def test_a_container_gets_its_gpus_and_no_others(engine: str, gpus: list[str], words: list[str]) -> None:
    """Seen red without the variable: an image that asks for all GPUs gets them from a runtime that is the engine's default."""
    assert containers.devices(engine, gpus) == words


def test_gpus_are_found_by_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '1, {B}'\necho '0, {A}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert containers.uuids([0, 1]) == [A, B]
    with pytest.raises(OSError, match="no GPU 7"):
        containers.uuids([7])


def test_values_are_given_by_the_environment_unless_they_mean_something_to_the_client() -> None:
    """Seen red with PATH among the client's own: it found no program of its engine."""
    argv, given = containers.variables({"MODE": "fast", "PATH": "/opt", "DOCKER_HOST": "x"}, {"TOKEN": b"hidden"})

    assert argv == ["--env", "DOCKER_HOST=x", "--env", "MODE", "--env", "PATH=/opt", "--env", "TOKEN"]
    assert given == {"MODE": "fast", "TOKEN": b"hidden"}
    with pytest.raises(ValueError, match="the secret LD_PRELOAD has a name that the container engine reads itself"):
        containers.variables({}, {"LD_PRELOAD": b"x"})


@pytest.mark.parametrize(
    ("family", "address", "where"),
    [
        (socket.AF_INET, "127.0.0.1", "loopback"),
        (socket.AF_INET, "0.0.0.0", "any"),
        (socket.AF_INET6, "::", "any"),
        (socket.AF_INET6, "::1", "loopback"),
    ],
)
def test_where_a_process_listens_is_seen(family: socket.AddressFamily, address: str, where: str) -> None:
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        port = sock.getsockname()[1]
        assert containers.listens_in(os.getpid(), port) == ""
        sock.listen()

        assert containers.listens_in(os.getpid(), port) == where


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (f"nginx{DIGEST}", f"docker.io/library/nginx{DIGEST}"),
        (f"acme/x:1.2{DIGEST}", f"docker.io/acme/x{DIGEST}"),
        (f"ghcr.io/acme/x{DIGEST}", f"ghcr.io/acme/x{DIGEST}"),
        (f"127.0.0.1:5000/x:v1{DIGEST}", f"127.0.0.1:5000/x{DIGEST}"),
        ("localhost/x:1", "localhost/x:1"),
        ("sha256:" + "b" * 64, "sha256:" + "b" * 64),
    ],
)
def test_an_image_is_named_as_both_engines_understand(image: str, name: str) -> None:
    assert images.qualified(image) == name
    assert images.qualified(name) == name


def test_a_docker_elsewhere_is_not_usable(monkeypatch: pytest.MonkeyPatch, short_tmp: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
    assert not containers.docker_answers()
    path = short_tmp / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert not containers.docker_answers()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

        assert containers.docker_answers()
