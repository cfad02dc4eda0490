"""The cache of resolved specs: with it and without it the same comes out, whatever is done to files, entries and places."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from falplan.cli.group import cli
from falplan.core.errors import Diagnostic, SpecInvalid
from falplan.core.spec.resolved import ResolvedSpec
from falplan.stores.spec import cache, load_spec
from falplan.stores.spec.cache import MOST, load_cached
from tests.stores.spec.project import write

SPEC = """version: 1
project: demo
owner: acme
variables: {most: {type: int, default: 4}, stage: {type: str, default: dev, env: STAGE}}
regions: {here: {provider: local, budget_per_hour: 2.50}}
environments:
  main: {}
  staging: {apps: {image: {max_concurrency: 2}, web: {}}, tags: {stage: "{{ var.stage }}"}, secrets: {TOKEN: {env: T}}}
apps:
  image:
    app: models/image.py::Image
    machine_type: [GPU-A100, S]
    max_concurrency: "{{ var.most }}"
    environment_variables: {STAGE: "{{ environment }}"}
  again: {app: models/image.py::Image, requirements: needs.txt, depends_on: [image], protect: true}
  web: {command: [serve, "--port"], health_check: {path: /ok}}
  some-{{ each.key }}: {for_each: [a, b], command: "run {{ each.value }}", files: ["models/data/*.txt"]}
moved: [{from: app.main.picture, to: app.main.image}]
drift: {ignore: [{address: app.main.web, attribute: settings.keep_alive}]}
checks: {cheap: {assert: "{{ cost.max < 100 }}", error: "too dear"}}
outputs: {url: {value: "{{ apps.main.web.url }}"}}
policies: {tags: {rule: no_public_apps, level: advisory}}
"""
PLAIN = SPEC.split("  some-")[0] + '  some: {command: run, files: ["models/data/*.txt"]}\n'
for _template, _value in (('"{{ var.most }}"', "4"), ('"{{ var.stage }}"', "x"), ('"{{ environment }}"', "x")):
    PLAIN = PLAIN.replace(_template, _value)
"""The same without a template, for tests of many loads: a child process renders templates."""
IMAGE = """import fal

from models import shared


class Image(fal.App):
    request_timeout = 600
    keep_alive = 60 * 5
    app_files = ["data"]
    app_nme = "image"
"""
FILES = {
    "falplan.yaml": SPEC,
    "models/__init__.py": "",
    "models/image.py": IMAGE,
    "models/shared.py": "A = 1\n",
    "needs.txt": "numpy==2.0\n-r more.txt\n",
    "more.txt": "pillow\n",
    "models/data/one.txt": "1",
    "models/data/two.bin": "2",
    ".gitignore": "*.log\n",
    "a.log": "x",
}
EDITS: dict[str, list[str | None]] = {
    "falplan.yaml": [
        PLAIN.replace("default: 4", "default: 5"),
        PLAIN.replace("demo", "dem"),
        PLAIN + "appz: {}\n",
        "]",
        None,
    ],
    "models/image.py": [IMAGE.replace("600", "601"), IMAGE.replace("Image", "Picture"), IMAGE + "    x = (\n", None],
    "models/shared.py": ["A = 2\n", "import models.deeper\n", "A = (\n", None],
    "models/deeper.py": ["B = 1\n", "B = 2\n"],
    "models.py": ["C = 1\n"],
    "shared.py": ["D = 1\n"],
    "needs.txt": ["numpy==2.1\n-r more.txt\n", "no requirement at all\n", None],
    "more.txt": ["pillow>=11\n", None],
    "models/data/one.txt": ["one", None],
    "models/data/three.txt": ["3"],
    ".gitignore": ["*.log\n*.bin\n", None],
    "models/data/.gitignore": ["one.txt\n"],
    ".falplanignore": ["models\n"],
    "a.log": ["y", None],
    "new.txt": ["n"],
    "vars.yaml": ["most: 7\n", "most: x\n"],
}
"""What may become of each file; None: it is gone."""
PROVIDERS = ("local", "ssh")
Outcome = ResolvedSpec | tuple[Diagnostic, ...]


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def outcome(load: Callable[..., ResolvedSpec], place: Path, environ: Mapping[str, str]) -> Outcome:
    folder = place / "project"
    files = [folder / "vars.yaml"] if (folder / "vars.yaml").exists() else []
    try:
        return load(folder, None, variables={}, variable_files=files, environ=environ, providers=PROVIDERS)
    except SpecInvalid as exc:
        return exc.diagnostics


def a_project(place: Path) -> Path:
    return write(place / "project", FILES)


def a_plain_project(place: Path) -> Path:
    return write(place / "project", {**FILES, "falplan.yaml": PLAIN})


def an_environment(place: Path, **more: str) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(place / "cache"), **more}


def cached(place: Path, **more: str) -> Outcome:
    return outcome(load_cached, place, an_environment(place, **more))


def entries(place: Path) -> list[Path]:
    folder = place / "cache" / "falplan"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def replaced(place: Path, content: bytes) -> None:
    """Put another spec into the entry, as only the cache itself could."""
    (entry,) = entries(place)
    key = entry.name.removeprefix("spec-").removesuffix(".json")
    cache.SpecCache(entry.parent).write(key, content)


def kept_as(place: Path, name: str) -> None:
    """Have the entry hold a project of another name, to tell a spec that comes from it."""
    (entry,) = entries(place)
    replaced(place, entry.read_bytes().split(b"\n", 1)[1].replace(b'"demo"', f'"{name}"'.encode()))


def test_what_was_kept_is_what_comes_back(place: Path) -> None:
    """Seen red with: an entry's settings written without their positions."""
    a_project(place)
    plain = outcome(load_spec, place, {})

    assert isinstance(plain, ResolvedSpec)
    assert plain.warnings
    assert cached(place) == plain
    assert len(entries(place)) == 1
    assert cached(place) == plain

    kept_as(place, "kept")
    again = cached(place)
    assert isinstance(again, ResolvedSpec)
    assert again.project == "kept"  # so it was read from there


@pytest.mark.parametrize("name", [*sorted(EDITS), ""])
def test_each_edit_alone_is_noticed(place: Path, name: str) -> None:
    """Without a name the environment changes. Seen red with: class sources, requirements, and variables of the environment not looked at."""
    for content in EDITS.get(name, [""]):
        project = a_plain_project(place)
        cached(place)
        path, environ = project / name, {} if name else {"STAGE": "live"}
        if content is None:
            path.unlink()
        elif name:
            write(project, {name: content})

        assert cached(place, **environ) == outcome(load_spec, place, environ)
        shutil.rmtree(project)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 4), st.sampled_from(["", "dev", "live"])),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_is_edited_the_same_comes_out_as_without_a_cache(edits: list[tuple[str, int, str]]) -> None:
    """Seen red with: requirements not looked at, and what was noted of the bundles not either."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        project = a_plain_project(place)
        assert cached(place) == outcome(load_spec, place, {})
        for name, number, stage in edits:
            path, choices = project / name, [{**FILES, "falplan.yaml": PLAIN}.get(name), *EDITS[name]]
            content = choices[number % len(choices)]
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write(project, {name: content})
            environ = {"STAGE": stage} if stage else {}
            without = outcome(load_spec, place, environ)

            assert [cached(place, **environ) for _ in range(2)] == [without, without]


def test_an_entry_that_was_cut_or_changed_counts_for_nothing(place: Path) -> None:
    """Seen red with: the checksum not compared."""
    a_plain_project(place)
    plain = cached(place)
    (entry,) = entries(place)
    whole = entry.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), len(whole) // 40)]
    damaged += [whole.replace(b'"demo"', b'"omed"'), whole.replace(b"600", b"601"), b"\x80\x04N.", b"[]", whole[65:]]
    for content in damaged:
        entry.write_bytes(content)

        assert cached(place) == plain


@pytest.mark.parametrize("head", [b"{}", b"[]", b"null", b"[" * 100_000, b'{"root": 1, "variables": []}'])
def test_an_entry_of_another_form_counts_for_nothing(place: Path, head: bytes) -> None:
    """Seen red with: TypeError and RecursionError let through."""
    a_project(place)
    plain = cached(place)
    replaced(place, head + b"\n" + head)

    assert cached(place) == plain


def _readable(entry: Path) -> None:
    entry.chmod(0o644)


def _shared(entry: Path) -> None:
    entry.parent.chmod(0o770)


def _linked(entry: Path) -> None:
    entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to(entry.parent.parent / "elsewhere")


def _another_users(entry: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(entry, 65534, 65534)


@pytest.mark.parametrize("spoil", [_readable, _shared, _linked, _another_users])
def test_what_others_could_have_written_is_not_believed(place: Path, spoil: Callable[[Path], None]) -> None:
    """Seen red with: `_is_ours` and `_is_private` that are always true, and without O_NOFOLLOW."""
    a_project(place)
    plain = cached(place)
    kept_as(place, "kept")
    spoil(entries(place)[0])

    assert cached(place) == plain


def test_it_is_this_users_alone(place: Path) -> None:
    a_project(place)
    cached(place)
    (entry,) = entries(place)

    assert (entry.parent.stat().st_mode & 0o777, entry.stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HOME": "/proc/none"},
        {"XDG_CACHE_HOME": "relative"},
        {"XDG_CACHE_HOME": "/proc/none"},
        {"XDG_CACHE_HOME": "/dev/null"},
    ],
)
def test_a_place_that_takes_nothing_is_no_error(place: Path, environ: dict[str, str]) -> None:
    a_project(place)

    assert outcome(load_cached, place, environ) == outcome(load_spec, place, {})


def test_a_disk_that_is_full_is_no_error(place: Path) -> None:
    """A limit of a file's size stands for it. Seen red with: OSError let through, and the torn file left there."""
    a_project(place)
    plain = outcome(load_spec, place, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        found = cached(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert found == plain
    assert entries(place) == []


def test_a_user_without_an_own_choice_has_it_in_the_home(place: Path) -> None:
    a_project(place)
    outcome(load_cached, place, {"HOME": str(place)})

    assert [p.suffix for p in (place / ".cache" / "falplan").iterdir()] == [".json"]


def test_it_can_be_turned_off(place: Path) -> None:
    """Seen red with: the variable not looked at."""
    a_project(place)
    cached(place, FALPLAN_NO_CACHE="1")

    assert entries(place) == []


def test_the_entries_used_last_are_kept(place: Path) -> None:
    """Seen red with: nothing removed, and with the newest removed first."""
    project = a_plain_project(place)
    cached(place)
    (first,) = entries(place)
    os.utime(first, (0, 0))
    for number in range(MOST + 3):
        write(project, {"falplan.yaml": PLAIN.replace("default: 4", f"default: {10 + number}")})
        cached(place)

    assert len(entries(place)) == MOST
    assert first not in entries(place)
    kept_last = max(entries(place), key=lambda p: p.stat().st_mtime_ns)
    assert b"28" in kept_last.read_bytes()


def test_no_value_of_command_line_or_environment_is_kept(place: Path) -> None:
    """Seen red with: a spec kept although the environment gave a variable its value."""
    project = a_project(place)
    assert isinstance(cached(place, STAGE="canary-1"), ResolvedSpec)
    environ = an_environment(place)
    load_cached(project, None, variables={"stage": "canary-2"}, variable_files=[], environ=environ, providers=PROVIDERS)

    assert entries(place) == []


def test_a_spec_that_is_invalid_is_not_kept(place: Path) -> None:
    write(a_project(place), {"falplan.yaml": SPEC + "appz: {}\n"})
    cached(place)

    assert entries(place) == []


def run(project: Path, *args: str, **environ: str) -> Result:
    before = dict(os.environ)
    os.environ.pop("FALPLAN_NO_CACHE", None)
    os.environ.update(environ)
    try:
        return CliRunner().invoke(cli, ["-C", str(project), *args])
    finally:
        os.environ.clear()
        os.environ.update(before)


def told(result: Any) -> tuple[int, str, str]:
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("args", [("plan",), ("graph",)])
def test_a_command_says_the_same_with_it(place: Path, args: tuple[str, ...]) -> None:
    """Seen red with: warnings left out of the entry."""
    project, environ = a_project(place), an_environment(place)
    (project / ".falplan").mkdir()
    without = told(run(project, *args, FALPLAN_NO_CACHE="1", **environ))

    assert [told(run(project, *args, **environ)) for _ in range(2)] == [without, without]
    assert "app_nme" in without[2]
    assert len(entries(place)) == 1


def test_a_spec_of_strangers_neither_uses_nor_fills_it(place: Path) -> None:
    """Seen red with: the environment left to `plan --untrusted`."""
    project, environ = a_project(place), an_environment(place)
    run(project, "plan", "--untrusted", **environ)
    assert entries(place) == []

    run(project, "graph", **environ)
    kept_as(place, "kept")
    assert '"kept"' not in run(project, "plan", "--untrusted", "--json", **environ).stdout
    assert "kept" in run(project, "plan", "--json", **environ).stdout


def test_another_python_or_falplan_asks_for_another_entry(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with: versions left out of the key."""
    a_project(place)
    cached(place)
    monkeypatch.setattr(sys, "version", "9.9")
    cache.programs.cache_clear()
    cached(place)
    cache.programs.cache_clear()

    assert len(entries(place)) == 2


def test_the_same_files_in_another_folder_are_another_spec(place: Path) -> None:
    """Seen red with: the folder left out of the key."""
    shutil.copytree(a_project(place), place / "copy")
    cached(place)
    environ = an_environment(place)
    found = load_cached(place / "copy", None, variables={}, variable_files=[], environ=environ, providers=PROVIDERS)

    assert found.folder == str((place / "copy").resolve())
