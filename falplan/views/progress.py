"""An apply as text for people, while it goes on and at its end. Values in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from falplan.core.outcome import Fate, Outcome, tally
from falplan.core.plan import Action, Plan
from falplan.core.plural import count
from falplan.views.plan import escape
from falplan.views.plan_words import summary_done

VERBS = {
    Action.CREATE: ("Creating", "Creation"),
    Action.UPDATE: ("Modifying", "Modification"),
    Action.REPLACE: ("Replacing", "Replacement"),
    Action.REPLACE_CREATE_FIRST: ("Replacing", "Replacement"),
    Action.DELETE: ("Destroying", "Destruction"),
    Action.FORGET: ("Forgetting", "Forgetting"),
    Action.READ: ("Reading", "Read"),
    Action.NOOP: ("Reading", "Read"),
}
"""What an action is called while it goes on, and once it has ended."""

APPLY, DESTROY = "Apply", "Destroy"
"""What a run as a whole is called."""

WORDS = {
    Fate.DONE: "done",
    Fate.FAILED: "failed",
    Fate.SKIPPED: "skipped",
    Fate.UNDER_WAY: "left under way",
    Fate.NOT_BEGUN: "not begun",
}


def started(address: str, action: Action) -> str:
    return f"{address}: {VERBS[action][0]}..."


def still(address: str, action: Action, elapsed: float) -> str:
    """A sign of life of an operation that takes long. `elapsed` in seconds."""
    return f"{address}: Still {VERBS[action][0].lower()}... [{duration(elapsed)} elapsed]"


def said(address: str, text: str) -> str:
    return f"{address}: {escape(text)}"


def complete(address: str, action: Action, elapsed: float) -> str:
    return f"{address}: {VERBS[action][1]} complete after {elapsed:.1f}s"


def failed(address: str, action: Action, elapsed: float, because: str) -> str:
    return f"{address}: {VERBS[action][1]} failed after {elapsed:.1f}s: {escape(because)}"


def skipped(address: str, because: str) -> str:
    return f"{address}: skipped, because {because}"


def duration(seconds: float) -> str:
    """Whole seconds below a minute, then minutes and hours: `50s`, `1m30s`, `2h00m10s`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m{whole % 60:02d}s"


def complete_line(verb: str, plan: Plan) -> str:
    """Terraform's last line of an apply in which everything was done. A replacement counts as one added and one destroyed."""
    if verb == DESTROY:
        forgotten = plan.count(Action.FORGET)
        left = f", {forgotten} forgotten" if forgotten else ""
        return f"{verb} complete! {plan.count(Action.DELETE)} destroyed{left}."
    if plan.refresh_only:
        return f"{verb} complete! {count(len(plan.drift), 'difference')} recorded in state."
    return f"{verb} complete! {summary_done(plan)}."


def incomplete(verb: str, ended: Sequence[Outcome]) -> str:
    """What an apply that did not get to its end did and did not do: the counts first, then each address that is not done."""
    counts = tally(ended)
    shown = [f for f in Fate if counts[f] or f in (Fate.DONE, Fate.FAILED, Fate.SKIPPED)]
    lines = [f"{verb} did not finish: {', '.join(f'{counts[f]} {WORDS[f]}' for f in shown)}."]
    width = max(len(WORDS[f]) for f in Fate)
    for fate in (Fate.FAILED, Fate.UNDER_WAY, Fate.SKIPPED, Fate.NOT_BEGUN):
        lines += [f"  {WORDS[fate]:<{width}}  {o.address}{_why(o)}" for o in ended if o.fate is fate]
    return "\n".join(lines)


def _why(outcome: Outcome) -> str:
    if outcome.fate is Fate.FAILED:
        return f": {escape(outcome.because)}"
    if outcome.fate is Fate.SKIPPED:
        return f", because {because_of(outcome.blamed)}"
    return ""


def because_of(addresses: Sequence[str]) -> str:
    """`a failed`, `a and b failed`, `a, b and c failed`."""
    *most, last = addresses
    return f"{', '.join(most)} and {last} failed" if most else f"{last} failed"


INTERRUPTED = "Interrupt: nothing new is begun; waiting for what runs. Interrupt again to leave at once."
LEAVING = "Second interrupt: not waiting. The next falplan apply finishes what is under way."


def saved_late(command: str) -> str:
    """The store failed for a while, and took the state at the end."""
    return f"State is saved by now, with everything that was done. Next: `falplan {command}` again."


def kept_in(path: str, push: str, command: str) -> str:
    """State went to a file of last resort. `push` is that file, quoted for a shell."""
    return f"State, with everything that was done, is in {path}. Next: `falplan state push {push}`, then `falplan {command}` again."


def kept_beside(path: str, quoted: str) -> str:
    """State of a run that another one overtook went to a file: it can't be pushed over what that one did."""
    return (
        f"What this run did since is in {path}, to compare with. It is not pushed: another run went on from what was recorded, and finds "
        f"by itself what it can. Next: `falplan plan` once that is done; then give the file up: `rm {quoted}`."
    )


def kept_nowhere(text: str, command: str, *, encoded: bool) -> str:
    """State that no place took, for a person to keep."""
    how = "put what base64 -d makes of the lines" if encoded else "put the lines"
    return (
        "No place took the state: neither the project's folder, nor the one for temporary files, nor the home. What was done since the "
        f"last save stands nowhere but here. Next: {how} between the marks into a file, make room, then "
        f"`falplan state push FILE`, then `falplan {command}` again.\n"
        f"----- BEGIN STATE -----\n{text.rstrip()}\n----- END STATE -----"
    )
