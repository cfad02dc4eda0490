"""Images of containers on a machine: fetches them, verifies that they are the ones that were asked for, and removes those that it fetched.

`python -I -S images.py` reads {root, image, timeout} from standard input as JSON, prints progress line by line, and at last a line of
\\x1e and JSON: {"ok": {engine, id, fetched}} or {"error": text}. What was fetched is recorded below ROOT/containers before it is; an image
that was there already is somebody else's, and never removed. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import containers
    from falplan.runner.containers import EngineFailed, ask
    from falplan.runner.processes import read_json, write_whole
else:  # a script finds its neighbours only if it is told where: -I keeps its folder off the path
    if "__file__" in globals():  # as a part of a hand it is no file
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import containers
    from containers import EngineFailed, ask
    from processes import read_json, write_whole

RECORD = "images.json"


def main() -> int:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer: dict[str, Any] = {"ok": ensure(request["root"], request["image"], float(request["timeout"]))}
    except (EngineFailed, OSError) as exc:
        answer = {"error": str(exc)}
    say("\x1e" + json.dumps(answer))
    return 0


def say(line: str) -> None:
    """One line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# -- having one ------------------------------------------------------------------------------------------------------------


def ensure(root: str, image: str, timeout: float) -> dict[str, Any]:
    """{engine, id, fetched} of an image, which is fetched if it comes from a registry and no engine has it. Times in seconds.

    Raises:
        EngineFailed: there is no engine, it can't be fetched, or what came is another one.
    """
    root = os.path.realpath(root)
    engines = containers.usable()
    if not engines:
        raise EngineFailed("this user can use neither Podman nor Docker there")
    name = qualified(image)
    for engine in engines:
        found = id_of(engine, name)
        if found:
            return {"engine": engine, "id": found, "fetched": False}
    if is_kept(image):
        raise EngineFailed(
            f"{' and '.join(engines)} there {'has' if len(engines) == 1 else 'have'} no image {image}: "
            f"bring it there, as with `{engines[0]} load`"
        )
    with Record(root) as record:
        record.add(engines[0], name)  # before it is there: what a fetch that was killed leaves is known
        fetch(engines[0], name, timeout)
    found = id_of(engines[0], name)
    if not found:
        raise EngineFailed(f"{engines[0]} fetched {name}, and has no image of this digest now")
    return {"engine": engines[0], "id": found, "fetched": True}


def is_kept(image: str) -> bool:
    """Whether an image comes from no registry: machines have it already, or do not."""
    return image.startswith("localhost/") or is_id(image)


def is_id(image: str) -> bool:
    """Whether it is an engine's own id of an image."""
    return image.startswith("sha256:") and len(image) == 71 and set(image[7:]) <= set("0123456789abcdef")


def qualified(image: str) -> str:
    """An image with its registry, and without a tag beside its digest: one of the engines understands neither the one nor the other."""
    if is_kept(image):
        return image
    name, at, digest = image.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first):
        name = f"docker.io/{name}"
    if at and ":" in name.rpartition("/")[2]:
        name = name.rpartition(":")[0]
    return f"{name}{at}{digest}"


def id_of(engine: str, image: str) -> str:
    """The id of an image that an engine has, and that is the one that is meant; empty if it has none."""
    try:
        found = json.loads(ask(engine, "image", "inspect", image))[0]
    except (EngineFailed, ValueError, IndexError):
        return ""
    known = str(found["Id"])
    known = known if known.startswith("sha256:") else f"sha256:{known}"
    if is_id(image):
        return known if known == image else ""
    digest = image.partition("@")[2]
    digests = {str(d).partition("@")[2] for d in found.get("RepoDigests") or ()} | {str(found.get("Digest", ""))}
    return known if not digest or digest in digests else ""


def fetch(engine: str, image: str, timeout: float) -> None:
    """Have an engine fetch an image, as the user is logged in to its registry there.

    Raises:
        EngineFailed: in the engine's words.
    """
    import signal
    import subprocess

    say(f"{engine} fetches {image}")
    process = subprocess.Popen(
        [engine, "pull", "--quiet", image],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd="/",
        env={**os.environ, "LC_ALL": "C"},
    )
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    try:
        errors = process.communicate(timeout=timeout)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise EngineFailed(f"{engine} pull: it took longer than {timeout:g} s") from None
    if process.returncode:
        said = containers.said(errors) or f"status {process.returncode}"
        raise EngineFailed(f"{engine} pull {image}: {said}{login_advice(engine, image, said)}")


def login_advice(engine: str, image: str, said: str) -> str:
    """What to do if a registry does not let this user in."""
    refused = ("denied", "unauthorized", "authentication required", "no basic auth")
    if not any(word in said.lower() for word in refused):
        return ""
    return f"\nIf it is private: `{engine} login {image.partition('/')[0]}` there, as the user who logs in."


# -- the record ------------------------------------------------------------------------------------------------------------


class Record:
    """The images that were fetched for a folder, held while it is changed: {engine: [names]}."""

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, containers.FOLDER)
        self.handle = -1
        self.body: dict[str, list[str]] = {}

    def __enter__(self) -> Record:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self.handle = os.open(os.path.join(self.folder, "images.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        self.body = fetched(os.path.dirname(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def add(self, engine: str, name: str) -> None:
        if name not in self.body.setdefault(engine, []):
            self.body[engine].append(name)
            self._save()

    def drop(self, engine: str, name: str) -> None:
        self.body[engine].remove(name)
        self._save()

    def _save(self) -> None:
        write_whole(os.path.join(self.folder, RECORD), json.dumps(self.body).encode())


def fetched(root: str) -> dict[str, list[str]]:
    """Engine -> names of the images that were fetched for a folder, and not removed since."""
    found = read_json(os.path.join(root, containers.FOLDER, RECORD))
    return found if isinstance(found, dict) else {}


def _all(root: str) -> Iterator[tuple[str, str]]:
    for engine, names in fetched(root).items():
        for name in names:
            yield engine, name


def unused(request: dict[str, Any]) -> list[dict[str, Any]]:
    """{engine, image, size} of the images that were fetched and are not among those to `keep`. Sizes in bytes."""
    root, keep = os.path.realpath(request["root"]), {qualified(i) for i in request["keep"]}
    return [{"engine": e, "image": n, "size": size_of(e, n)} for e, n in _all(root) if n not in keep]


def size_of(engine: str, image: str) -> int:
    try:
        return int(ask(engine, "image", "inspect", "--format", "{{.Size}}", image))
    except (EngineFailed, ValueError):
        return 0


def prune(request: dict[str, Any]) -> list[str]:
    """Remove the images that were fetched and are not among those to `keep`. Names of those that went.

    One that a container uses, whoever's, stays and is tried again the next time.
    """
    root, keep = os.path.realpath(request["root"]), {qualified(i) for i in request["keep"]}
    wanted = set(request["only"]) if request.get("only") is not None else None
    if not any(name not in keep for _, name in _all(root)):
        return []
    gone = []
    with Record(root) as record:
        for engine, name in list(_all(root)):
            if name not in keep and (wanted is None or name in wanted) and is_removed(engine, name):
                record.drop(engine, name)
                gone.append(name)
    return gone


def remove_all(root: str) -> None:
    """At the end of a machine's use: nothing that was fetched stays, unless somebody else uses it."""
    prune({"root": root, "keep": []})


def is_removed(engine: str, image: str) -> bool:
    """Whether an image is gone. Other names that somebody gave it stay."""
    try:
        ask(engine, "image", "rm", image)
    except EngineFailed as exc:
        gone = any(words in str(exc).lower() for words in ("no such image", "image not known"))
        return gone or not containers.is_installed(engine)  # one that does not answer may have it still
    return True


if __name__ == "__main__":
    sys.exit(main())
