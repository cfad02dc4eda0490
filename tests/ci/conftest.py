"""A repository of a user's, whose spec lies in `deploy`, on a machine that runs its jobs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from .forge import TOKEN, Forge, forge
from .runner import Machine

SPEC = """version: 1
project: shop
owner: acme
gateway: {provider: local, ephemeral: true}
apps:
  web: {command: python3 server.py, files: [server.py], machine_type: XS, auth: public}
"""
PROJECT_KEY = base64.b64encode(bytes(range(32))).decode()
SECRETS = {"TOKEN": TOKEN, "FALPLAN_KEY": "", "FALPLAN_PROJECT_KEY": PROJECT_KEY}
SERVER = Path(__file__).parents[2] / "examples" / "server" / "server.py"


def pull_request(*, fork: bool = False, author: str = "ana") -> dict[str, object]:
    """What GitHub tells a workflow that a pull request started."""
    head = {"sha": "abc1234", "repo": {"full_name": "mallory/shop" if fork else "acme/shop"}}
    base = {"repo": {"full_name": "acme/shop"}}
    return {"pull_request": {"number": 7, "head": head, "base": base, "user": {"login": author}}}


@pytest.fixture
def github() -> Iterator[Forge]:
    with forge("github") as made:
        yield made


@pytest.fixture
def gitlab() -> Iterator[Forge]:
    with forge("gitlab") as made:
        yield made


@pytest.fixture
def machine(tmp_path: Path, github: Forge) -> Machine:
    """Its event is a pull request of a member."""
    made = Machine(tmp_path, github.url, pull_request(), SECRETS)
    write_repository(made.origin)
    made.commit()
    return made


def write_repository(folder: Path, spec: str = SPEC, directory: str = "deploy") -> None:
    (folder / directory).mkdir(parents=True, exist_ok=True)
    (folder / directory / "falplan.yaml").write_text(spec)
    (folder / directory / "server.py").write_text(SERVER.read_text())
