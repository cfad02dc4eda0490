"""A control plane that somebody says is dead for good: another one takes its place, on this machine."""

from __future__ import annotations

from dataclasses import replace

from falplan.core.errors import Refused
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.client import connect
from falplan.engine.host_gateway import is_alone
from falplan.engine.project import Project
from falplan.engine.reaching import DECLARED_DEAD, Where, host_answers, recorded_gateway


def without_dead(project: Project, state: State, declared: str) -> State:
    """State as if the gateway with that id lived here and lost its data. Unchanged for an empty id.

    Nothing but a person can tell a machine that is gone from one that is only cut off, so a person has to name the id.

    Raises:
        Refused: it is another gateway's id, it lives on this machine or is the spec's, or something still takes connections there.
    """
    if not declared:
        return state
    outputs = recorded_gateway(state)
    known, summary = str(outputs.get("id", "")), "The gateway can't be given up"
    if declared != known:
        detail = f"State knows {known}" if known else "State knows no gateway"
        raise Refused(summary, f"{detail}, not {declared}. Nothing was changed.")
    place = project.where(state)
    if place is Where.GIVEN:
        raise Refused(summary, "The spec says where it is: change gateway.url.")
    if place is Where.HERE:
        raise Refused(
            summary, f"{known} belongs to this machine: `falplan apply` starts it again, or makes another one."
        )
    if place is Where.HOST:
        _refuse_reachable(project, state)
        return _given_up(state, outputs)
    _refuse_listening(str(outputs["url"]), str(outputs.get("ca") or ""))
    return _given_up(state, outputs)


def _refuse_reachable(project: Project, state: State) -> None:
    """Raise Refused if the host of the control plane still answers: whatever is to become of it can be done there."""
    if host_answers(project.spec, state, project.ways):
        raise Refused(
            "The gateway can't be given up",
            "Its host answers: what is to become of it can be done there. Nothing was changed.",
        )
    outputs = recorded_gateway(state)
    if not is_alone(state.resources[GATEWAY].inputs):
        _refuse_listening(str(outputs["url"]), str(outputs.get("ca") or ""))


def _refuse_listening(url: str, ca: str) -> None:
    if connect(url, "", ca_data=ca).listens():
        raise Refused(
            "The gateway can't be given up", f"Something takes connections at {url}: end it first. Nothing was changed."
        )


def _given_up(state: State, outputs: JsonObject) -> State:
    left, known = f"{outputs.get('host')}:{outputs.get('home')}", outputs["id"]
    gone = {"id": known, "epoch": outputs.get("epoch", 0), DECLARED_DEAD: left}
    recorded = replace(state.resources[GATEWAY], outputs=gone)
    return replace(state, resources={**state.resources, GATEWAY: recorded})


def what_stays(state: State) -> str:
    """What a person has to know of the machine that was given up; empty if none was."""
    outputs = recorded_gateway(state)
    if DECLARED_DEAD not in outputs:
        return ""
    return (
        f"Warning: {outputs['id']} was given up unseen. Should its machine come back, end `falplan serve` there, if it runs, "
        f"and remove {outputs[DECLARED_DEAD]}: a control plane whose folder is removed ends its runners and itself."
    )
