"""Keys that are none: refused, never an error of ours, and compared so that nothing is told by how long it takes."""

from __future__ import annotations

import ast
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from falplan.core.runtime import KeyScope
from falplan.stores.runtime.keys import hash_of
from tests.gateway.plane import a_plane
from tests.gateway.test_edge import code, raw

ROOT = Path(__file__).parents[2]
HOLD_KEYS = (
    "falplan/stores/runtime/keys.py",
    "falplan/gateway/auth.py",
    "falplan/gateway/server.py",
    "falplan/stores/user_keys.py",
)


def malformed(key: str, rng: random.Random) -> Iterator[bytes]:
    """A key that is changed, cut, doubled, of other alphabets, or no key at all; as it stands in a header."""
    whole = key.encode()
    for number in range(1000):
        place = rng.randrange(len(whole))
        found = (
            whole[:place],
            whole[:place] + bytes([rng.randrange(0x21, 0xFF)]) + whole[place + 1 :],
            whole + bytes(rng.randrange(0x80, 0x100) for _ in range(rng.randint(1, 40))),
            whole[::-1],
            whole * rng.randint(2, 40),
            whole.replace(b":", rng.choice([b"", b"::", b" ", b"%3a", b"\xef\xbc\x9a"])),
            bytes(rng.choice(b"abc:%\\\"'{}\xc3\xa9\xf0\x9f\x94\x91") for _ in range(rng.randint(0, 200))),
            whole.swapcase(),
        )[number % 8]
        yield found if found != whole else b"x" + found


async def test_a_thousand_malformed_keys_are_401_and_never_an_error_of_ours(tmp_path: Path) -> None:
    """Seen red with `hmac.compare_digest` on text, which raises for what is not ASCII."""
    async with a_plane(tmp_path) as plane:
        _, key = await plane.keys.create(KeyScope.ADMIN, "")
        codes: dict[int, int] = {}
        for text in malformed(key, random.Random(8)):
            head = (
                b"GET /admin/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Key " + text
            )
            found = code(await raw(plane, head + b"\r\n\r\n"))
            codes[found] = codes.get(found, 0) + 1

        assert set(codes) <= {400, 401, 431}, codes  # 400 and 431: what no header may hold, or too long a one
        assert codes[401] > 600


def test_only_digests_of_one_length_are_compared() -> None:
    """Whatever is presented, 32 bytes are compared: how many of them agree tells nothing of the key."""
    assert {len(hash_of(text)) for text in ("", "a", "a" * 10_000, "é", "\udcff")} == {32}


def test_no_comparison_by_value_touches_a_key() -> None:
    """Seen red with `secret == expected` in the store of keys."""
    names = {"secret", "presented", "expected", "digest"}
    found = []
    for name in HOLD_KEYS:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                called = {n for n in ast.walk(node) if isinstance(n, ast.Call) and ast.unparse(n.func) == "len"}
                if used & names and not called:
                    found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")

    assert found == []


@pytest.mark.bench
async def test_how_long_it_takes_tells_not_where_a_key_is_wrong(tmp_path: Path) -> None:
    """20,000 looks at keys that are wrong in their first and in their last letter, taken in turns; compared with each other as with themselves.

    The difference of their medians is no larger than those of halves of the same kind, ten times over.
    """
    async with a_plane(tmp_path) as plane:
        _, key = await plane.keys.create(KeyScope.API, "")
        name, _, secret = key.partition(":")
        kinds = {
            "first": f"{name}:{_other(secret[0])}{secret[1:]}",
            "last": f"{name}:{secret[:-1]}{_other(secret[-1])}",
        }
        took: dict[str, list[int]] = {kind: [] for kind in kinds}
        for _ in range(10_000):
            for kind, presented in kinds.items():
                begun = time.perf_counter_ns()
                plane.keys.verify(presented)
                took[kind].append(time.perf_counter_ns() - begun)
        between = abs(statistics.median(took["first"]) - statistics.median(took["last"]))
        within = max(abs(statistics.median(t[:5000]) - statistics.median(t[5000:])) for t in took.values())

        assert between <= max(10 * within, 0.05 * statistics.median(took["first"]))


def _other(letter: str) -> str:
    return "a" if letter != "a" else "b"
