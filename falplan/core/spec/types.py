"""How each kind of value is read: raw text for text, YAML 1.2 numbers and booleans, durations, sizes. Coerces nothing."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from falplan.core.spec.codes import Code
from falplan.core.spec.tree import BOOLS, FLOAT, NULLS, Scalar, integer, kind
from falplan.core.spec.words import NAME_LIMIT, NAME_PATTERN, NAME_RULE, TYPE_NAME, is_name, nearest, path_fault, quoted

LARGEST = 2**53 - 1
YEAR = 366 * 86400

_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,3})?)s)?(?:(\d{1,9})ms)?")
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([KMGT]i?)?B?")
_UNITS: dict[str | None, int] = {None: 1}
_UNITS |= {letter: 1000**n for n, letter in enumerate("KMGT", 1)}
_UNITS |= {letter + "i": 1024**n for n, letter in enumerate("KMGT", 1)}


def fault(code: Code, message: str, hint: str = "") -> PydanticCustomError:
    """An error that keeps falplan's code. The message never holds a value that may be a secret."""
    return PydanticCustomError(code.value, "{text}", {"text": message, "hint": hint})


def _refuse_empty(value: object) -> None:
    if value is None or (isinstance(value, Scalar) and value.plain and value in NULLS):
        raise fault(Code.MISSING, "empty value", "give a value, or remove the key")


def text(value: Any) -> str:
    """The raw text of a leaf: `3.10` stays `3.10`, `NO` stays `NO`."""
    _refuse_empty(value)
    if isinstance(value, str):
        return str(value)
    raise fault(Code.TYPE, f"expected text, found {kind(value)}")


def boolean(value: Any) -> bool:
    """A YAML 1.2 boolean without quotes."""
    if isinstance(value, bool):
        return value
    _refuse_empty(value)
    if isinstance(value, Scalar) and value.plain and value in BOOLS:
        return BOOLS[value]
    hint = "write true or false, without quotes"
    raise fault(Code.TYPE, f"expected true or false, found {_shown(value)}", hint)


def _shown(value: Any) -> str:
    if isinstance(value, Scalar):
        return quoted(value, 30)
    return kind(value)


def whole(low: int, high: int = LARGEST) -> Callable[[Any], int]:
    """A reader of whole numbers between the two."""

    def read(value: Any) -> int:
        number = _whole(value)
        if low <= number <= high:
            return number
        raise fault(Code.RANGE, f"{number if abs(number) <= LARGEST else 'number'} is out of range", _range(low, high))

    return read


def _range(low: float, high: float) -> str:
    return f"allowed: {low} or more" if high == LARGEST else f"allowed: {low} to {high}"


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    _refuse_empty(value)
    if not isinstance(value, Scalar):
        raise fault(Code.TYPE, f"expected a whole number, found {kind(value)}")
    if not value.plain:
        raise fault(Code.TYPE, f"expected a whole number, found the text {quoted(value, 30)}", "remove the quotes")
    _refuse_octal(value)
    number = integer(value)
    if number is not None:
        return number
    if len(value) > 20 and value.lstrip("-+0123456789abcdefABCDEFxo") == "":
        raise fault(Code.RANGE, "number out of range")
    raise fault(Code.TYPE, f"expected a whole number, found {quoted(value, 30)}")


def _refuse_octal(value: Scalar) -> None:
    digits = value.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits.isdecimal() and len(digits) <= 20:
        hint = f'write "{value}" or 0o{digits.lstrip("0") or "0"}'
        raise fault(Code.TYPE, "ambiguous octal", hint)


def number(low: float, high: float = LARGEST) -> Callable[[Any], float]:
    """A reader of numbers between the two; a whole one stays whole."""

    def read(value: Any) -> float:
        found = _number(value)
        if low <= found <= high:
            return found
        raise fault(Code.RANGE, "number out of range", _range(low, high))

    return read


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, Scalar) and value.plain and len(value) <= 40 and FLOAT.fullmatch(value):
        whole_part = integer(value)
        if whole_part is None:
            return float(value)
        _refuse_octal(value)
        return whole_part
    if isinstance(value, Scalar) and value.plain and value.lstrip("+-").lower() in (".inf", ".nan"):
        raise fault(Code.RANGE, f"{value} is out of range", "write a finite number")
    return _whole(value)


MOST_MONEY = 1_000_000_000
_MONEY = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?")


def money(value: Any) -> Decimal:
    """US dollars, exactly as they are written: at most six digits behind the point."""
    found = value if isinstance(value, Decimal) else _number(value)
    spelt = str(value) if isinstance(value, str) else f"{found:f}"
    if not 0 <= found <= MOST_MONEY:
        raise fault(Code.RANGE, "amount out of range", _range(0, MOST_MONEY))
    if not _MONEY.fullmatch(spelt):
        raise fault(
            Code.RANGE,
            f"not an amount of US dollars: {quoted(spelt, 30)}",
            "such as 2.5, at most six digits behind the point",
        )
    return Decimal(spelt)


def tags(value: Any) -> dict[str, str]:
    """Tags: names to text."""
    if not isinstance(value, dict):
        _refuse_empty(value)
        raise fault(Code.TYPE, f"expected a mapping of tags to text, found {kind(value)}")
    for key in value:
        if not TAG.fullmatch(str(key)):
            raise fault(
                Code.NAME, f"bad name of a tag {quoted(str(key))}", "letters, digits and . _ / : -, at most 128"
            )
    return {str(key): text(item) for key, item in value.items()}


TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


def duration(value: Any) -> float:
    """Seconds: a number, or text such as `1m30s`, `2h`, `250ms`. At most a year."""
    if isinstance(value, Scalar) and not (value.plain and FLOAT.fullmatch(value)):
        return _spelt_duration(value)
    if isinstance(value, str) and not isinstance(value, Scalar):
        return _spelt_duration(value)
    return number(0, YEAR)(value)


def _spelt_duration(value: str) -> float:
    _refuse_empty(value)
    clock = _CLOCK.fullmatch(value)
    if clock:
        parts = [int(p) for p in clock.groups() if p]
        seconds = sum(p * 60**n for n, p in enumerate(reversed(parts)))
        raise fault(Code.TYPE, "not a number of seconds", f'did you mean {seconds} or "{spell(seconds)}"?')
    match = _DURATION.fullmatch(value)
    if not value or not match:
        if isinstance(value, Scalar) and value.plain:
            return number(0, YEAR)(_numeric_or_fault(value))
        raise fault(Code.TYPE, f"not a duration: {quoted(value, 30)}", 'write seconds, or text such as "1m30s"')
    hours, minutes, seconds_, millis = (float(g or 0) for g in match.groups())
    return number(0, YEAR)(_tidy(hours * 3600 + minutes * 60 + seconds_ + millis / 1000))


def _numeric_or_fault(value: Scalar) -> float:
    if value[:1] in "+-.0123456789" and value[1:2] != "":
        return _number(value)
    raise fault(Code.TYPE, f"not a duration: {quoted(value, 30)}", 'write seconds, or text such as "1m30s"')


def _tidy(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else round(seconds, 3)


def spell(seconds: float) -> str:
    """Seconds as `1h2m3s`, the way durations are written."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (left, "s"))
    return "".join(f"{n}{unit}" for n, unit in parts if n) or "0s"


def size(value: Any) -> int:
    """Bytes: a whole number, or text such as `512MB` (10^6) and `1GiB` (2^30)."""
    if not isinstance(value, str) or (isinstance(value, Scalar) and value.plain and integer(value) is not None):
        return whole(1)(value)
    _refuse_empty(value)
    match = _SIZE.fullmatch(value)
    if not match or match[2] is None:
        raise fault(Code.TYPE, f"not a size: {quoted(value, 30)}", 'write bytes, or text such as "512MB" or "1GiB"')
    return whole(1)(int(float(match[1]) * _UNITS[match[2]]))


def choice(*allowed: str, later: tuple[str, ...] = ()) -> Callable[[Any], str]:
    """A reader of one of the allowed words; those of `later` are named as not supported in this version."""

    def read(value: Any) -> str:
        word = text(value)
        if word in allowed:
            return word
        listed = "allowed: " + ", ".join(allowed)
        if word in later:
            raise fault(Code.UNSUPPORTED, f"this version of falplan does not support {quoted(word)}", listed)
        close = nearest(word, allowed)
        raise fault(
            Code.RANGE, f"{quoted(word, 30)} is not allowed", (f'did you mean "{close}"? ' if close else "") + listed
        )

    return read


def name(value: Any) -> str:
    """A name of a project, owner, app, environment or region."""
    word = text(value)
    if is_name(word):
        return word
    raise fault(Code.NAME, f"bad name {quoted(word)}", f"a name is {NAME_RULE}")


def type_name(value: Any) -> str:
    """A name of a machine type."""
    word = text(value)
    if TYPE_NAME.fullmatch(word):
        return word
    raise fault(
        Code.NAME,
        f"bad name of a machine type {quoted(word)}",
        "letters, digits, dot, hyphen and underscore, at most 63",
    )


def ip_address(value: Any) -> str:
    """An IPv4 or IPv6 address."""
    word = text(value)
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        raise fault(Code.RANGE, f"{quoted(word)} is no IP address", "such as 127.0.0.1, 0.0.0.0 or ::") from None


def host_name(value: Any) -> str:
    """A DNS name, or an IP address."""
    word = text(value)
    if len(word) <= 253 and all(_LABEL.fullmatch(label) for label in word.split(".")):
        return word.lower()
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        raise fault(Code.RANGE, f"{quoted(word)} is no host name", "such as gpu-01.example.com") from None


def https_url(value: Any) -> str:
    """`https://host` or `https://host:port`, without a path."""
    word = text(value)
    host, colon, port = word.removeprefix("https://").rstrip("/").rpartition(":")
    if not colon or port.endswith("]"):
        host, port = word.removeprefix("https://").rstrip("/"), "443"
    if word.startswith("https://") and host and "/" not in host and "@" not in host and port.isdecimal():
        host_name(host.strip("[]"))
        return word.rstrip("/")
    raise fault(Code.RANGE, "not the URL of a gateway", "such as https://gpu-01.example.com:8443, without a path")


_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def path(value: Any) -> str:
    """A relative path with forward slashes that stays below its folder."""
    word = text(value)
    why = path_fault(word)
    if why:
        raise fault(Code.PATH, f"{quoted(word)} {why}", "write a path below the spec's folder, with forward slashes")
    return word


def argv(value: Any) -> list[str]:
    """A command: a list, or text that is split as a POSIX shell splits it. It is run without a shell."""
    if isinstance(value, list):
        return _some([text(item) for item in value])
    try:
        return _some(shlex.split(text(value)))
    except ValueError as exc:
        raise fault(Code.TYPE, f"the command can't be split: {str(exc).lower()}", "write it as a list") from exc


def _some(words: list[str]) -> list[str]:
    if words and words[0]:
        return words
    raise fault(Code.MISSING, "the command is empty")


def one_or_many(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """A reader of one value or a list of at least one."""

    def read_all(value: Any) -> list[Any]:
        if isinstance(value, list | tuple):
            if not value:
                raise fault(Code.MISSING, "the list is empty", "give a value, or remove the key")
            return [read(item) for item in value]
        return [read(value)]

    return read_all


def optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A reader that takes null as None."""

    def read_or_none(value: Any) -> Any:
        if value is None or (isinstance(value, Scalar) and value.plain and value in NULLS):
            return None
        return read(value)

    return read_or_none


_DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": YEAR},
        {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+(\.\d+)?s)?(\d+ms)?$", "minLength": 1},
    ],
}
_NAME_SCHEMA: dict[str, Any] = {"type": "string", "pattern": NAME_PATTERN, "maxLength": NAME_LIMIT}
# Text takes the raw text of any scalar, so an editor may be shown numbers and booleans too.
_TEXT_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean"]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


Text: TypeAlias = Annotated[str, PlainValidator(text), WithJsonSchema(_TEXT_SCHEMA)]
Bool: TypeAlias = Annotated[bool, PlainValidator(boolean), WithJsonSchema({"type": "boolean"})]
Count: TypeAlias = Annotated[int, PlainValidator(whole(0)), WithJsonSchema({"type": "integer", "minimum": 0})]
Positive: TypeAlias = Annotated[int, PlainValidator(whole(1)), WithJsonSchema({"type": "integer", "minimum": 1})]
Percent: TypeAlias = Annotated[
    int, PlainValidator(whole(0, 10_000)), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 10_000})
]
OptionalGpus: TypeAlias = Annotated[
    int | None,
    PlainValidator(optional(whole(1, 8))),
    WithJsonSchema(_or_null({"type": "integer", "minimum": 1, "maximum": 8})),
]
Port: TypeAlias = Annotated[
    int, PlainValidator(whole(1, 65535)), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535})
]
Vcpu: TypeAlias = Annotated[
    float, PlainValidator(number(0.01, 4096)), WithJsonSchema({"type": "number", "minimum": 0.01, "maximum": 4096})
]
Money: TypeAlias = Annotated[
    Decimal, PlainValidator(money), WithJsonSchema({"type": "number", "minimum": 0, "maximum": MOST_MONEY})
]
Tags: TypeAlias = Annotated[
    dict[str, str],
    PlainValidator(tags),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
]
Duration: TypeAlias = Annotated[float, PlainValidator(duration), WithJsonSchema(_DURATION_SCHEMA)]
OptionalDuration: TypeAlias = Annotated[
    float | None, PlainValidator(optional(duration)), WithJsonSchema(_or_null(_DURATION_SCHEMA))
]
Size: TypeAlias = Annotated[
    int,
    PlainValidator(size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*[KMGT]i?B?$"}]}
    ),
]
Name: TypeAlias = Annotated[str, PlainValidator(name), WithJsonSchema(_NAME_SCHEMA)]
TypeName: TypeAlias = Annotated[str, PlainValidator(type_name), WithJsonSchema({"type": "string"})]
RelativePath: TypeAlias = Annotated[str, PlainValidator(path), WithJsonSchema({"type": "string", "minLength": 1})]
Argv: TypeAlias = Annotated[
    list[str],
    PlainValidator(argv),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1}]}
    ),
]
TypeNames: TypeAlias = Annotated[
    list[str],
    PlainValidator(one_or_many(type_name)),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
