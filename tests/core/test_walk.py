"""Which operations run, in which order, and what a failure stops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from falplan.core.walk import Walk

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": []}


def test_what_waits_for_nothing_starts() -> None:
    assert Walk(DIAMOND).start() == ["a", "e"]


def test_an_operation_is_ready_once_all_it_waits_for_is_done() -> None:
    walk = Walk(DIAMOND)

    assert walk.finish("a") == ["b", "c"]
    assert walk.finish("b") == []
    assert walk.finish("c") == ["d"]


def test_a_failure_skips_only_what_is_downstream() -> None:
    walk = Walk(DIAMOND)
    walk.finish("a")

    assert walk.fail("b") == ["d"]
    assert walk.skipped == {"d": "b"}
    assert walk.finish("c") == []


GRAPHS = st.integers(1, 12).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            f"n{i:02}": st.lists(st.sampled_from([f"n{j:02}" for j in range(i)]), max_size=3) if i else st.just([])
            for i in range(n)
        }
    )
)


@given(GRAPHS, st.sets(st.integers(0, 11)), st.randoms(use_true_random=False))
def test_everything_ends_done_failed_or_skipped(graph: dict[str, list[str]], failing: set[int], random: object) -> None:
    walk = Walk(graph)
    bad = {f"n{i:02}" for i in failing}
    ready, done, failed = walk.start(), [], set()
    while ready:
        name = random.choice(ready)  # type: ignore[attr-defined]
        ready.remove(name)
        assert all(d in done for d in graph[name])
        if name in bad:
            failed.add(name)
            walk.fail(name)
        else:
            done.append(name)
            ready += walk.finish(name)

    assert set(done) | failed | set(walk.skipped) == set(graph)
    assert len(done) + len(failed) + len(walk.skipped) == len(graph)
    assert all(any(d in failed or d in walk.skipped for d in graph[s]) for s in walk.skipped)
