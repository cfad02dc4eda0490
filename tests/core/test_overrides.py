"""Overrides as values."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.overrides import (
    RUNTIME,
    Live,
    Mark,
    NotOverridable,
    applied_revision,
    check_together,
    read_settings,
    with_applied_settings,
    with_revision,
    with_settings,
)
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.values import Json, JsonObject

from .builders import an_app, settings

MARK = Mark("2026-01-31T12:00:00.000Z", "Kim (key-1)")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "min_concurrency": st.integers(0, 5),
    "max_concurrency": st.integers(1, 9),
    "keep_alive": st.integers(0, 100),
    "auth": st.sampled_from(["private", "public"]),
    "regions": st.none() | st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2),
}
STEPS = st.lists(
    st.one_of(
        st.fixed_dictionaries({}, optional=VALUES).map(lambda found: ("settings", found)),
        st.sampled_from(["r-1", "r-2", "r-3"]).map(lambda found: ("revision", found)),
    ),
    max_size=8,
)


def inputs_of(revision: str) -> JsonObject:
    return an_app(files={"app.py": revision}, startup_timeout=int(revision[2:]) * 10).inputs


def followed(steps: list[tuple[str, Any]]) -> tuple[Live, str]:
    live, serves = Live(inputs_of("r-1")), "r-1"
    for kind, value in steps:
        if kind == "settings":
            live = with_settings(live, cast("dict[str, Json]", value), MARK)
        elif value != serves:
            live, serves = with_revision(live, value, inputs_of(value), serves=serves, mark=MARK), value
    return live, serves


@given(STEPS)
def test_overrides_are_exactly_what_differs_from_what_was_applied(steps: list[tuple[str, Any]]) -> None:
    """Seen red with an `applied` that was the value before the last change."""
    live, serves = followed(steps)
    applied = cast("JsonObject", inputs_of("r-1")["settings"])
    differ = {f"settings.{n}" for n in RUNTIME if live.settings[n] != applied[n]}

    assert set(live.overrides) == differ | ({"revision"} if serves != "r-1" else set())
    for path, told in live.overrides.items():
        found = cast("JsonObject", told)
        name = path.removeprefix("settings.")
        assert found["value"] == (serves if path == "revision" else live.settings[name])
        assert found["applied"] == ("r-1" if path == "revision" else applied[name])
    assert live.inputs["files"] == {"app.py": serves}
    assert live.settings["startup_timeout"] == int(serves[2:]) * 10


@given(STEPS)
def test_reset_leads_back_to_what_was_applied(steps: list[tuple[str, Any]]) -> None:
    """Seen red with a reset that kept settings of the revision in between."""
    live, serves = followed(steps)
    applied = applied_revision(live.overrides, serves)
    back = with_applied_settings(live)
    if serves != applied:
        back = with_revision(back, str(applied), inputs_of(str(applied)), serves=serves, mark=MARK)

    assert back == Live(inputs_of("r-1"))


def test_values_are_read_as_the_spec_reads_them() -> None:
    wanted: dict[str, Json] = {"keep_alive": "1m30s", "regions": "here", "request_start_timeout": None}

    assert read_settings("app.main.hello", wanted) == {
        "keep_alive": 90,
        "regions": ["here"],
        "request_start_timeout": None,
    }


@pytest.mark.parametrize("name", [n for n in APP_FIELDS if n not in RUNTIME])
def test_what_is_bound_to_the_code_is_not_overridden(name: str) -> None:
    with pytest.raises(NotOverridable, match=f"{name} belongs to the revision"):
        read_settings("app.main.hello", {name: None})


def test_pairs_are_checked_against_what_stays() -> None:
    live = with_settings(Live(an_app().inputs), {"concurrency_buffer": 3}, MARK)
    with pytest.raises(NotOverridable, match="concurrency_buffer 3 is above max_concurrency 2: change both"):
        check_together("app.main.hello", live.settings)


def test_an_app_of_an_older_release_without_a_setting_is_overridden_all_the_same() -> None:
    """Its row has no value for what did not exist then; the default counts."""
    old = settings()
    del old["max_concurrency"]
    live = Live({**an_app().inputs, "settings": old})
    changed = with_settings(live, {"min_concurrency": 2}, MARK)
    check_together("app.main.hello", changed.settings)

    assert "max_concurrency" not in changed.settings
