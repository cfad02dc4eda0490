"""The same for many, several at a time. For looks alone: whoever is interrupted waits for none of them, and none is ended in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(items: Sequence[T], work: Callable[[T], R], most: int, name: str) -> list[R]:
    """What `work` returns for each item, in their order; the error of the first that raised one. At most `most` at once."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(items)):
        todo.put(number)
    results: dict[int, R] = {}
    errors: dict[int, BaseException] = {}

    def take() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results[number] = work(items[number])
            except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits
                errors[number] = exc

    # Not a pool of the standard library: the interpreter waits for its threads at the end, as long as a silent host takes.
    threads = [threading.Thread(target=take, name=f"{name}-{n}", daemon=True) for n in range(min(most, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(items))]


def both(first: Callable[[], T], second: Callable[[], R]) -> tuple[T, R]:
    """What two calls return that are made beside each other; the error of the first that raised one."""
    ones: list[T] = []
    others: list[R] = []
    calls: list[Callable[[], None]] = [lambda: ones.append(first()), lambda: others.append(second())]
    each(calls, _call, len(calls), "both")
    return ones[0], others[0]


def _call(work: Callable[[], None]) -> None:
    work()
