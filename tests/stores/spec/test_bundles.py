"""What travels with an app: its entry, its local imports, the files that it names; nothing from outside the folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from falplan.stores.spec.files import FileFault, Folder
from tests.stores.spec.project import APP, COMMAND, HEAD, findings, load, write

FAL = HEAD + "apps:\n  a:\n    app: pkg/app.py::App\n"


def paths(tmp_path: Path, spec: str, files: dict[str, str]) -> list[str]:
    """Paths of the bundle of the spec's one app."""
    (app,) = load(tmp_path, spec, files).apps
    return [f.path for f in app.bundle.files]


def test_local_imports_are_followed(tmp_path: Path) -> None:
    files = {
        "pkg/app.py": "import beside, os, numpy\nfrom . import sibling\nfrom lib.deep import thing\n" + APP,
        "pkg/beside.py": "def f():\n    import late\n",
        "pkg/late.py": "import beside\n",
        "pkg/sibling.py": "",
        "pkg/unused.py": "",
        "lib/__init__.py": "",
        "lib/deep/__init__.py": "from .other import x\n",
        "lib/deep/thing.py": "from ..top import y\n",
        "lib/deep/other.py": "x = 1\n",
        "lib/top.py": "y = 1\n",
        "numpy.txt": "",
    }

    assert paths(tmp_path, FAL, files) == [
        "lib/__init__.py", "lib/deep/__init__.py", "lib/deep/other.py", "lib/deep/thing.py", "lib/top.py",
        "pkg/app.py", "pkg/beside.py", "pkg/late.py", "pkg/sibling.py",
    ]  # fmt: skip


def test_namespace_packages_are_followed(tmp_path: Path) -> None:
    files = {
        "pkg/app.py": "import space.inner.mod\nfrom space import other\n" + APP,
        "space/inner/mod.py": "",
        "space/other.py": "",
    }

    assert paths(tmp_path, FAL, files) == ["pkg/app.py", "space/inner/mod.py", "space/other.py"]


def test_app_files_of_a_class_start_at_its_own_folder(tmp_path: Path) -> None:
    source = APP.replace("pass", 'app_files = ["data", "*.json"]\n    app_files_ignore = [r"\\.tmp$"]')
    files = {"pkg/app.py": source, "pkg/data/a.bin": "", "pkg/data/b.tmp": "", "pkg/c.json": "", "d.json": ""}

    assert paths(tmp_path, FAL, files) == ["pkg/app.py", "pkg/c.json", "pkg/data/a.bin"]


def test_app_files_of_the_spec_start_at_its_folder_and_replace_those_of_the_class(tmp_path: Path) -> None:
    source = APP.replace("pass", 'app_files = ["data"]')
    files = {"pkg/app.py": source, "pkg/data/a.bin": "", "d.json": ""}

    assert paths(tmp_path, FAL + "    app_files: d.json\n", files) == ["d.json", "pkg/app.py"]


def test_a_command_gets_the_folder_less_what_is_ignored_and_the_spec(tmp_path: Path) -> None:
    files = {
        ".gitignore": "*.log\n/out/\n",
        ".falplanignore": "notes.md\n",
        "server.py": "", "a.log": "", "out/x": "", "notes.md": "",
        "sub/.gitignore": "!a.log\nlocal\n", "sub/a.log": "", "sub/local": "", "sub/out/x": "",
        ".git/config": "", ".falplan/state.json": "", "__pycache__/x.pyc": "",
    }  # fmt: skip

    assert paths(tmp_path, HEAD + COMMAND, files) == ["server.py", "sub/a.log", "sub/out/x"]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.py", ["a.py"]),
        ("**/*.py", ["a.py", "s/b.py", "s/t/c.py"]),
        ("s", ["s/b.py", "s/t/c.py"]),
        ("s/", ["s/b.py", "s/t/c.py"]),
        ("s/*.py", ["s/b.py"]),
        ("s/**", ["s/b.py", "s/t/c.py"]),
        ("./a.py", ["a.py"]),
        ("[ab].py", ["a.py"]),
        (".", ["a.py", "falplan.yaml", "s/b.py", "s/t/c.py"]),
    ],
)
def test_globs_start_at_the_folder(glob: str, found: list[str], tmp_path: Path) -> None:
    files = {"a.py": "", "s/b.py": "", "s/t/c.py": ""}

    assert paths(tmp_path, HEAD + COMMAND + f"    files: {glob!r}\n", files) == found


def test_a_file_is_digested_with_its_executable_bit(tmp_path: Path) -> None:
    write(tmp_path, {"run.sh": "echo hi\n"})
    (tmp_path / "run.sh").chmod(0o755)

    (app,) = load(tmp_path, HEAD + COMMAND + "    files: run.sh\n").apps

    (file,) = app.bundle.files
    assert (file.sha256, file.size, file.executable) == (hashlib.sha256(b"echo hi\n").hexdigest(), 8, True)


def test_a_change_of_the_spec_alone_changes_no_bundle(tmp_path: Path) -> None:
    first = load(tmp_path, HEAD + COMMAND, {"server.py": "x"}).apps[0].bundle
    second = load(tmp_path, HEAD + COMMAND + "    keep_alive: 5\n").apps[0].bundle

    assert first == second


def test_a_link_inside_the_folder_counts_as_its_target(tmp_path: Path) -> None:
    write(tmp_path, {"real/a.txt": "hi"})
    (tmp_path / "link").symlink_to("real")

    (app,) = load(tmp_path, HEAD + COMMAND + "    files: link\n").apps

    assert [(f.path, f.size) for f in app.bundle.files] == [("link/a.txt", 2)]


def test_a_folder_that_holds_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"d/a.txt": ""})
    (tmp_path / "d/again").symlink_to(".")

    (found,) = findings(tmp_path, HEAD + COMMAND + "    files: d\n")

    assert "circle" in found.message


def test_an_entry_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"app.py": APP})
    inside = write(tmp_path / "inside", {"pkg/x": ""})
    (inside / "pkg/app.py").symlink_to(outside / "app.py")

    (found,) = findings(inside, FAL)

    assert found.code == "SPEC034"


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"d/a": ""})
    (tmp_path / os.fsdecode(b"d/\xff")).write_text("")

    (found,) = findings(tmp_path, HEAD + COMMAND + "    files: d\n")

    assert "UTF-8" in found.message


def test_a_file_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"d/a": "inside"})
    write(tmp_path / "out", {"a": "outside"})
    folder = Folder(root.resolve())
    real_inside = folder.inside("d/a")
    (root / "d/a").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to(tmp_path / "out")

    with pytest.raises(FileFault):
        folder.digest(real_inside)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for n in range(10_001):
        (tmp_path / f"d/{n}").touch()

    (found,) = findings(tmp_path, HEAD + COMMAND + "    files: d\n")

    assert "10,001 files" in found.message


def test_a_link_to_itself_in_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"d/a": ""})
    (tmp_path / "d/loop").symlink_to("loop")

    (found,) = findings(tmp_path, HEAD + COMMAND + "    files: d\n")

    assert (found.code, '"d/loop"' in found.message) == ("SPEC034", True)
