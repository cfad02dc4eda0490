"""Who may have a machine, and what fits on it: rules that look at nothing but their arguments.

A part of the agent: lies beside it on each machine. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from typing import Any

    Claim = dict[str, Any]


class Refusal(Exception):
    """Why nothing was done. `kind` is claimed, fenced, no_room, busy or unreadable; `owner` the claim that is in the way, if one is."""

    def __init__(self, kind: str, text: str, owner: Claim | None = None) -> None:
        super().__init__(text)
        self.kind, self.owner = kind, owner


def name_of(claim: Claim) -> str:
    """A claim as people read it."""
    return (
        f"control plane {claim['control_plane']} of project {claim['project'] or '(unnamed)'} (lineage {claim['lineage']}), "
        f"user {claim['user']}, pid {claim['process']['pid']} on {claim['host']}, data in {claim['home']}"
    )


def judge_claim(found: Claim | None, asked: Claim, *, lives: bool, retired: dict[str, str], replaces: str) -> Claim:
    """{epoch, rolled_back, replaced} for one lineage's claim that may be taken.

    `asked["epoch"]` is the one that the asker's database holds, `found` the claim that is there, `lives` whether its process does.
    `found["confirmed"]` is the newest epoch that is known to have been made durable by whoever got it; an epoch that was given and
    never used does not make a database look old.

    Raises:
        Refusal: `claimed`, with the reason.
    """
    mine = asked["control_plane"]
    if mine in retired:
        raise Refusal(
            "claimed", f"Control plane {mine} was replaced by {retired[mine]}: it may not act any more.", found
        )
    if found is None:
        return {"epoch": asked["epoch"], "rolled_back": False, "replaced": ""}
    same = found["process"] == asked["process"]
    if lives and not same:
        raise Refusal("claimed", f"It runs: {name_of(found)}.", found)
    if found["control_plane"] != mine:
        if replaces != found["control_plane"]:
            detail = f"Another one acted for this lineage: {name_of(found)}. It does not run now, and it was not said to be replaced."
            raise Refusal("claimed", detail, found)
        return {"epoch": max(asked["epoch"], found["epoch"]) + 1, "rolled_back": False, "replaced": replaces}
    if found["home"] != asked["home"] and asked["home"] in found["left"] and asked["epoch"] < found["epoch"]:
        raise Refusal("claimed", f"A copy of it at {found['home']} acted since: {name_of(found)}.", found)
    if same and found["home"] == asked["home"]:
        return {"epoch": found["epoch"], "rolled_back": False, "replaced": ""}  # the answer to the first call was lost
    epoch = max(asked["epoch"], found["epoch"]) + 1
    return {"epoch": epoch, "rolled_back": found["confirmed"] > asked["epoch"], "replaced": ""}


def left_by(found: Claim | None, asked: Claim) -> list[str]:
    """Data folders that this control plane was copied away from; the newest claim's own is not among them."""
    if found is None or found["control_plane"] != asked["control_plane"]:
        return []
    return sorted({*found["left"], found["home"]} - {asked["home"]})


def check_exclusive(claims: dict[str, Claim], asked: Claim) -> None:
    """A machine that is not shared belongs to one lineage."""
    for lineage, claim in sorted(claims.items()):
        if lineage != asked["lineage"] and not (claim["shared"] and asked["shared"]):
            raise Refusal("claimed", f"The machine belongs to another lineage: {name_of(claim)}.", claim)


def check_fence(claims: dict[str, Claim], fence: dict[str, Any]) -> None:
    """Whoever carries the fence still holds the claim."""
    claim = claims.get(fence["lineage"])
    if claim is None:
        raise Refusal("fenced", f"Nobody holds a claim for lineage {fence['lineage']} any more.")
    if (claim["control_plane"], claim["epoch"]) != (fence["control_plane"], fence["epoch"]):
        detail = f"Epoch {fence['epoch']} of {fence['control_plane']} is over; epoch {claim['epoch']} belongs to {name_of(claim)}."
        raise Refusal("fenced", detail, claim)


def check_room(wanted: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """It fits into the machine beside what others took. `machine` is {vcpu, ram, strict}; GPUs are exclusive."""
    for other in others:
        both = sorted({*wanted["gpus"]} & {*other["gpus"]})
        if both:
            raise Refusal("no_room", f"GPU {both[0]} is taken by {holder(other)}")
    machine = wanted["machine"]
    for name, unit in (("ram", "bytes of RAM"), ("vcpu", "vCPU")):
        free = machine[name] - sum(o[name] for o in others)
        if wanted[name] > free and (name == "ram" or machine["strict"]):
            who = ", ".join(sorted({holder(o) for o in others})) or "nobody"
            raise Refusal("no_room", f"it needs {wanted[name]:g} {unit}, {free:g} are free beside those of {who}")


def holder(entry: dict[str, Any]) -> str:
    """Whose reservation it is, as people read it."""
    return f"project {entry['project'] or '(unnamed)'} (lineage {entry['lineage']})"
