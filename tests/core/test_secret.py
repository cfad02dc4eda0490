"""A secret's value shows itself nowhere, whatever is done with it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.secret import HIDDEN, LONGEST, SecretValue, misfit

PLANTED = b"correct horse battery staple"
VALUE = SecretValue(PLANTED)


@dataclass
class Holder:
    value: SecretValue


@pytest.mark.parametrize(
    "shown",
    [
        repr(VALUE),
        str(VALUE),
        f"{VALUE}",
        f"{VALUE!r:>40}",
        f"{VALUE:s}",
        "{} {!r}".format(*[VALUE, VALUE]),
        repr([VALUE]),
        repr(Holder(VALUE)),
    ],
)
def test_no_text_of_it_holds_the_value(shown: str) -> None:
    assert "horse" not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "act", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, bytes, lambda v: asdict(Holder(v))]
)
def test_what_would_take_it_along_is_refused_without_showing_it(act: object) -> None:
    with pytest.raises(TypeError) as raised:
        act(VALUE)  # type: ignore[operator]

    assert "horse" not in "".join(traceback.format_exception(raised.value))


def test_a_log_of_it_holds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("x").warning("value %s %r", VALUE, {"v": VALUE})

    assert "horse" not in caplog.text


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_values_are_equal_by_their_bytes(one: bytes, other: bytes) -> None:
    assert (SecretValue(one) == SecretValue(other)) == (one == other)


def test_a_nul_byte_and_too_much_are_refused_by_name_and_size_alone() -> None:
    assert "NUL" in misfit("T", SecretValue(b"a\0b"))
    assert misfit("T", SecretValue(b"x" * (LONGEST - 3))) == ""
    assert "131,070 bytes" in misfit("T", SecretValue(b"x" * (LONGEST - 2)))
