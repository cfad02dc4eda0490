"""A fal.App's attributes are read from its source, which is never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.spec.project import HEAD, findings, load, value_of

FAL = HEAD + "apps:\n  a:\n    app: app.py::App\n"


def source(body: str, before: str = "") -> str:
    """A module with a class App that has that body."""
    indented = body.replace("\n", "\n    ")
    return f"import fal\n{before}\n\nclass App(fal.App):\n    {indented}\n"


def setting(tmp_path: Path, name: str, body: str, before: str = "") -> object:
    """The value of a setting of a class with that body."""
    (app,) = load(tmp_path, FAL, {"app.py": source(body, before)}).apps
    return value_of(app, name)


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ('machine_type = "GPU-A100"', "machine_type", ["GPU-A100"]),
        ('machine_type = ["M", "L"]', "machine_type", ["M", "L"]),
        ("keep_alive: int = 5 * 60", "keep_alive", 300),
        ('app_auth = "public"', "auth", "public"),
        ('requirements = ["torch", "numpy"]', "requirements", ["torch", "numpy"]),
        ('requirements = [["torch"], ["numpy"]]', "requirements", ["torch", "numpy"]),
        ("max_concurrency = TEN", "max_concurrency", 10),
        ("min_concurrency = None", "min_concurrency", 0),
        ("num_gpus = 2", "num_gpus", 2),
        ('skip_retry_conditions = ["timeout"]', "skip_retry_conditions", ["timeout"]),
        ('regions = ["local"]', "regions", ["local"]),
        ("request_timeout = 1.5", "request_timeout", 1.5),
    ],
)
def test_an_attribute_is_read(body: str, name: str, value: object, tmp_path: Path) -> None:
    assert setting(tmp_path, name, body, "TEN = 10") == value


def test_nothing_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"

    setting(tmp_path, "keep_alive", "keep_alive = 5", f"open({str(trap)!r}, 'w').close()\nraise SystemExit\n")

    assert not trap.exists()


def test_class_keywords_and_local_bases_count(tmp_path: Path) -> None:
    text = "from fal import App as Base\n\nclass Common(Base, keep_alive=7):\n    startup_timeout = 8\n    min_concurrency = 1\n\n\nclass App(Common):\n    min_concurrency = 2\n"

    (app,) = load(tmp_path, FAL, {"app.py": text}).apps

    assert [value_of(app, n) for n in ("keep_alive", "startup_timeout", "min_concurrency")] == [7, 8, 2]


def test_a_health_check_is_read_from_its_endpoint(tmp_path: Path) -> None:
    body = (
        '@fal.endpoint("/ok", health_check=fal.HealthCheck(timeout_seconds=2, failure_threshold=1))\ndef ok(self): ...'
    )

    assert setting(tmp_path, "health_check", body) == {
        "path": "/ok", "method": "POST", "timeout_seconds": 2, "failure_threshold": 1, "call_regularly": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "body", ["keep_alive = f'{1}'", "keep_alive = compute()", "keep_alive = os.cpu_count()", "keep_alive = other"]
)
def test_what_only_running_would_tell_is_refused_unless_the_spec_says_it(body: str, tmp_path: Path) -> None:
    (found,) = findings(tmp_path, FAL, {"app.py": source(body)})
    assert (found.code, str(found.position)) == ("SPEC038", "app.py:5:5")
    assert "can't be read without running it" in found.message

    (app,) = load(tmp_path, FAL + "    keep_alive: 9\n", {"app.py": source(body)}).apps
    assert value_of(app, "keep_alive") == 9


def test_a_misspelt_attribute_is_met_with_the_nearest(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, FAL, {"app.py": source("min_concurency = 1")}).warnings

    assert (str(warning.position), warning.hint) == ("app.py:5:5", "did you mean `min_concurrency`?")


def test_an_attribute_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, FAL, {"app.py": source("model_name = 'x'\nprompt: str = 'y'")}).warnings == ()


def test_an_attribute_that_is_not_supported_is_named(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, FAL, {"app.py": source('data_mounts = ["/data"]')}).warnings

    assert "`data_mounts`" in warning.message


def test_another_name_in_the_class_is_named(tmp_path: Path) -> None:
    assert load(tmp_path, FAL, {"app.py": source('app_name = "a"')}).warnings == ()
    (warning,) = load(tmp_path, FAL, {"app.py": source('app_name = "b"')}).warnings
    assert '"b"' in warning.message


def test_a_bad_value_in_a_class_is_placed_there(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, FAL, {"app.py": source('max_concurrency = "many"')})

    assert str(found.position) == "app.py:5:5"


def test_a_base_class_of_another_file_is_named(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, FAL, {"app.py": "from base import Base\n\nclass App(Base):\n    pass\n"}).warnings

    assert "Base" in warning.message


def test_source_may_hold_form_feeds_and_odd_escapes(tmp_path: Path) -> None:
    assert setting(tmp_path, "keep_alive", "keep_alive = 3", "\x0c\nPATTERN = '\\d'") == 3


def test_columns_count_characters(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, FAL, {"app.py": "import fal\nclass App(fal.App): 'é'; keep_alive = f()\n"})

    assert str(found.position) == "app.py:2:26"
