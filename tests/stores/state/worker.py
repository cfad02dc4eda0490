"""A process that holds a state's lock and does what it is told: `python worker.py SECTION ROOT LEASE`.

It locks, reads the state or begins one, says `locked <serial>`, and then obeys lines: `+ADDRESS` appends an entry, `save` saves, `end` gives
the lock back. Each is answered by `done`, or by the error's kind and text.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.core.state import Entry, Recorded, State, replay
from falplan.stores.state.places import open_store
from falplan.stores.state.store import Store

LINEAGE = "3b6d0000-0000-4000-8000-000000000001"


def say(text: str) -> None:
    print(text.replace("\n", " "), flush=True)


def entry(address: str) -> Entry:
    """A resource that came to be."""
    return Entry("done", address, 1, Recorded(address, "app", {}, {}, (), 1))


def main(section: str, root: str, lease: str) -> None:
    store = open_store(json.loads(section), "demo", Path(root), {"FALPLAN_STATE_LEASE": lease})
    try:
        with store.locked("apply", timeout=30):
            state = store.read("demo") or State("demo", LINEAGE, 0)
            if state.serial == 0 or store.has_journal():
                state = store.save(state)
            say(f"locked {state.serial}")
            _obey(store, state)
    except FalplanError as exc:
        say(f"{type(exc).__name__}: {exc}")


def _obey(store: Store, state: State) -> None:
    base = state
    for line in sys.stdin:
        word = line.strip()
        if word == "end":
            break
        try:
            if word == "save":
                base = state = store.save(state)
            else:
                step = entry(word[1:])
                store.append(base, step)
                state = replace(replay(state, [step]))
            say("done")
        except FalplanError as exc:
            say(f"{type(exc).__name__}: {exc}")
    say("ending")


if __name__ == "__main__":
    main(*sys.argv[1:])
