"""Paths have one spelling, or are refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.paths import BadPath, canonical_path, canonical_target

HOST = "gateway.example:8443"
GOOD_SEGMENT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\%;"), min_size=1).filter(
    lambda s: s not in (".", "..")
)


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", "/"),
        ("/run/acme/app", "/run/acme/app"),
        ("/run/acme/app/", "/run/acme/app/"),
        ("/run/%61cme/app", "/run/acme/app"),
        ("/run/acme/a%7Eb", "/run/acme/a~b"),
        ("/run/acme/a%2Bb%20c", "/run/acme/a+b%20c"),
        ("/run/acme/%c3%a9", "/run/acme/%C3%A9"),
        ("/run/acme/a;v=1", "/run/acme/a;v=1"),
        ("/run/acme/...", "/run/acme/..."),
        ("/run/acme/a:b@c", "/run/acme/a:b@c"),
    ],
)
def test_a_path_gets_its_one_spelling(path: str, canonical: str) -> None:
    assert canonical_path(path) == canonical


@pytest.mark.parametrize(
    "path",
    [
        "//", "//run", "/run//acme/app", "/run/acme/app//", "/.", "/./run", "/..", "/run/../admin/v1/status", "/run/..",
        "/%2e/run", "/%2E%2e/run", "/.%2e/run", "/run/..;x/admin", "/run/.;/acme", "/run/%2e%2e;a=b/admin",
        "/run/acme%2fapp", "/run/acme%2Fapp/x", "/run/a%5cb", "/run/a%00b", "/run/a%0ab", "/run/a%0d%0ab", "/run/a%7fb",
        "/run/%ff", "/run/%c0%af", "/run/%e0%80%af", "/run/%ed%a0%80", "/run/%", "/run/%2", "/run/%zz", "/run/%u002e",
        "/run/%252e%252e/admin", "/run/%252fadmin", "/run/%255c", "/run/%2500",
    ],
)  # fmt: skip
def test_an_ambiguous_path_is_refused(path: str) -> None:
    with pytest.raises(BadPath):
        canonical_target(path, HOST)


@pytest.mark.parametrize(
    "target",
    [
        *("", "*", "run/acme/app", "?x", "/run#x", "/run\\x", "/run/é", "/run x", "/run\x00", "/run\udcff"),
        *("gateway.example:8443", "http://other.example/run", "https://gateway.example/run"),
        *("ftp://gateway.example:8443/run", "http://u@" + HOST + "/x"),
    ],
)
def test_a_target_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(BadPath):
        canonical_target(target, HOST)


def test_an_absolute_target_of_this_host_is_its_path() -> None:
    it = canonical_target(f"http://{HOST.upper()}/run/acme/app?x=%2e", HOST)

    assert (it.path, it.query) == ("/run/acme/app", "x=%2e")
    assert canonical_target(f"https://{HOST}", HOST).path == "/"


@given(st.lists(GOOD_SEGMENT, min_size=1), st.booleans())
def test_any_segment_has_one_spelling_however_it_came(segments: list[str], all_encoded: bool) -> None:
    plain = "/" + "/".join(quote(s, safe="-._~!$&'()*+,=:@") for s in segments)
    came = "/" + "/".join("".join(f"%{b:02x}" for b in s.encode()) if all_encoded else quote(s) for s in segments)

    assert canonical_path(came) == plain
    assert canonical_path(plain) == plain


@given(st.text(st.sampled_from("/.%2eEfF5cC0;aA~ \\?"), max_size=12))
def test_what_is_accepted_is_stable_and_holds_no_structure(text: str) -> None:
    try:
        path = canonical_target("/" + text, HOST).path
    except BadPath:
        return
    assert canonical_target(path, HOST).path == path
    for segment in path[1:].split("/")[:-1]:
        assert segment not in ("", ".", "..")
