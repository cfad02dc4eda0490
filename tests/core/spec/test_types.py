"""Every kind of value is read by one rule, whatever it looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from falplan.core.spec.tree import Scalar, integer, scalar_value
from falplan.core.spec.types import argv, boolean, duration, name, size, spell, text, whole
from falplan.core.spec.words import did_you_mean, escaped, is_name, path_fault, quoted


def bare(written: str) -> Scalar:
    """A scalar without quotes."""
    leaf = Scalar(written)
    leaf.plain = True
    return leaf


def in_quotes(written: str) -> Scalar:
    """A scalar in quotes."""
    leaf = Scalar(written)
    leaf.plain = False
    return leaf


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("1m30s", 90),
        ("2h", 7200),
        ("250ms", 0.25),
        ("1h1m1s", 3661),
        ("0.5s", 0.5),
        ("0", 0),
        ("1e3", 1000),
    ],
)
def test_a_duration_is_seconds_or_spelt(written: str, seconds: float) -> None:
    assert duration(bare(written)) == seconds


@pytest.mark.parametrize(
    "written", ["", "abc", "1x", "-1", "1:30", "1m30", "s", "1e999", "400d", "9999999h", ".nan", "+", "0644"]
)
def test_what_is_no_duration_is_refused(written: str) -> None:
    with pytest.raises(PydanticCustomError):
        duration(bare(written))


def test_a_clock_is_met_with_what_was_meant() -> None:
    with pytest.raises(PydanticCustomError) as caught:
        duration(bare("1:30"))

    assert caught.value.context is not None
    assert caught.value.context["hint"] == 'did you mean 90 or "1m30s"?'


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("512MB", 512_000_000),
        ("1GB", 10**9),
        ("1GiB", 2**30),
        ("1.5 GB", 1_500_000_000),
        ("4096", 4096),
        ("2Ki", 2048),
        ("1T", 10**12),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(written: str, count: int) -> None:
    assert size(bare(written)) == count


@pytest.mark.parametrize("written", ["0", "-1GB", "GB", "1XB", "1 000", "1.5"])
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(PydanticCustomError):
        size(bare(written))


@pytest.mark.parametrize(("written", "number"), [("0", 0), ("12", 12), ("0o17", 15), ("0x1F", 31), ("+4", 4)])
def test_whole_numbers_are_those_of_yaml_1_2(written: str, number: int) -> None:
    assert whole(0)(bare(written)) == number


@pytest.mark.parametrize("written", ["1_000", "0b11", "017", "1.0", "1e3", "NO", "", "٣"])
def test_nothing_else_is_a_whole_number(written: str) -> None:
    with pytest.raises(PydanticCustomError):
        whole(0)(bare(written))


@pytest.mark.parametrize("written", ["yes", "no", "on", "off", "NO", "y", "1"])
def test_only_true_and_false_are_booleans(written: str) -> None:
    with pytest.raises(PydanticCustomError):
        boolean(bare(written))
    assert boolean(bare("True")) is True


@pytest.mark.parametrize("written", ["3.10", "NO", "0644", "1:30:00", "true", "2024-13-45", "1e3"])
def test_text_keeps_what_is_written(written: str) -> None:
    assert text(bare(written)) == written


@pytest.mark.parametrize("written", ["", "~", "null"])
def test_null_is_no_text_but_in_quotes_it_is(written: str) -> None:
    assert text(in_quotes(written)) == written
    with pytest.raises(PydanticCustomError):
        text(bare(written))


def test_a_command_is_split_as_a_shell_splits_it() -> None:
    assert argv(in_quotes("serve --name 'two words' $HOME")) == ["serve", "--name", "two words", "$HOME"]
    with pytest.raises(PydanticCustomError):
        argv(in_quotes("serve 'open"))


@pytest.mark.parametrize("word", ["a", "a1", "text-to-image", "a" * 63])
def test_names_are_safe_everywhere(word: str) -> None:
    assert name(word) == word


@pytest.mark.parametrize("word", ["", "A", "1a", "-a", "a-", "a--b", "a_b", "a.b", "a/b", "é", "a\n", "a" * 64])
def test_other_names_are_refused(word: str) -> None:
    assert not is_name(word)


@pytest.mark.parametrize("word", ["", "/x", "~/x", "..", "a/../b", "C:/x", "a\\b", "a\nb", "a\0b"])
def test_paths_stay_below_their_folder(word: str) -> None:
    assert path_fault(word)


@given(st.floats(0, 10**7, allow_nan=False).map(lambda n: round(n)))
def test_a_spelt_duration_reads_back(seconds: int) -> None:
    assert duration(bare(spell(seconds))) == seconds


@given(st.text())
def test_escaped_text_holds_nothing_that_a_terminal_acts_on(word: str) -> None:
    assert escaped(word).isprintable()
    assert quoted(word).isprintable()


@given(st.text(max_size=30))
def test_any_scalar_has_a_value_and_no_exception(word: str) -> None:
    scalar_value(bare(word))
    integer(word)


def test_the_nearest_word_comes_first_and_else_all_are_listed() -> None:
    assert did_you_mean("machin_type", ["machine_type", "auth"]) == 'did you mean "machine_type"?'
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", []) == ""
