"""Reads the values of the spec's secrets where they are, and says of each what a plan may know. Shows none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from falplan.core.errors import Refused
from falplan.core.plan import Presence, Seen
from falplan.core.resources import ResourceType
from falplan.core.secret import SecretValue, misfit
from falplan.core.spec.resolved import ResolvedSecret
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.observe import Observed
from falplan.engine.project import Project
from falplan.stores.encryption import variables_of
from falplan.stores.pending_secrets import Pending, PendingSecrets
from falplan.stores.project_key import VARIABLE, Keyring, ProjectKeys
from falplan.stores.secret_sources import SourceMissing, read_source

NOT_HERE = "unknown (source not here): "


@dataclass(frozen=True, slots=True)
class GatheredSecrets:
    """What the spec's secrets turned out to be here, by address.

    `inputs`: source with `fingerprint`, or with `version` for a stored one; the source alone where the value is not to be had, and
    `missing` then says why. `rekeyed` have the recorded value, but a fingerprint of another key. `values` are for delivery.
    """

    inputs: dict[str, JsonObject] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    rekeyed: frozenset[str] = frozenset()
    values: dict[str, SecretValue] = field(default_factory=dict, repr=False)


def project_keys(project: Project) -> ProjectKeys:
    """Where the project's key is: the environment, or a folder on this machine."""
    return ProjectKeys(project.folder, project.environ)


def pending_secrets(project: Project) -> PendingSecrets:
    """Values that were set while there was no control plane."""
    return PendingSecrets(project.folder / "secrets")


def ensure_key(project: Project, state: State) -> None:
    """Make the project's first key if this spec needs one. Not if state knows of one that is not here: that one has to come back."""
    needed = any("stored" not in s.source for s in project.spec.secrets)
    if needed and not recorded_keys(state):
        project_keys(project).ensure()


UNTRUSTED = "it is not read for a spec that is not trusted"


def unread_secrets(project: Project) -> GatheredSecrets:
    """The spec's secrets without a look at any of their sources."""
    return GatheredSecrets(missing=dict.fromkeys((s.address for s in project.spec.secrets), UNTRUSTED))


def gather_secrets(project: Project, state: State, observed: Observed) -> GatheredSecrets:
    """Read every secret of the spec. Changes nothing.

    Raises:
        Refused: a value can't be an environment variable, or the project's key is damaged.
    """
    gathered = GatheredSecrets()
    keys = project_keys(project).read() if project.spec.secrets else None
    rekeyed = set()
    for secret in project.spec.secrets:
        try:
            if "stored" in secret.source:
                waiting = pending_secrets(project).read(secret.address, keys)
                gathered.inputs[secret.address] = _stored(secret, state, observed, waiting)
                if waiting:
                    gathered.values[secret.address] = waiting.value
                continue
            value = _value(secret, project)
            gathered.values[secret.address] = value
            inputs, same = _fingerprinted(secret, value, keys, state)
            gathered.inputs[secret.address] = inputs
            rekeyed |= {secret.address} if same else set()
        except SourceMissing as exc:
            gathered.missing[secret.address] = str(exc)
            gathered.values.pop(secret.address, None)
    return GatheredSecrets(gathered.inputs, gathered.missing, frozenset(rekeyed), gathered.values)


def _value(secret: ResolvedSecret, project: Project) -> SecretValue:
    value = read_source(secret.source, Path(project.spec.folder), project.environ)
    why = misfit(secret.name, value)
    if why:
        raise Refused("A secret can't be delivered", f"{secret.address}: {why}. Nothing was changed.")
    return value


def _stored(secret: ResolvedSecret, state: State, observed: Observed, waiting: Pending | None) -> JsonObject:
    """The inputs of a stored secret: the version that was applied as long as the control plane's newest is what came of it."""
    if waiting:
        return {"source": dict(secret.source), "version": waiting.version}
    row = observed.secrets.get(secret.address)
    if row is None and observed.unreachable:
        raise SourceMissing(observed.unreachable)
    if row is None:
        where = "" if secret.environment == "main" else f" -e {secret.environment}"
        raise SourceMissing(f"it has no value yet: falplan secrets set {secret.name}{where}")
    recorded = state.resources.get(secret.address)
    applied = recorded.inputs.get("version") if recorded and recorded.outputs.get("version") == row["version"] else None
    return {"source": dict(secret.source), "version": applied or str(row["version"])}


def _fingerprinted(
    secret: ResolvedSecret, value: SecretValue, keys: Keyring | None, state: State
) -> tuple[JsonObject, bool]:
    """The resource's inputs, and whether the recorded value is this one under another key."""
    recorded = state.resources.get(secret.address)
    before = str(recorded.inputs.get("fingerprint", "")) if recorded else ""
    if keys is None:
        known = sorted(recorded_keys(state))
        if known:
            detail = (
                f"the project's key {known[0]} is not here: set {VARIABLE}, or bring project.key to the state's folder"
            )
            raise SourceMissing(detail)
        return {"source": dict(secret.source)}, False  # nothing was applied yet: apply makes the first key
    fingerprint = keys.current.fingerprint(secret.address, value)
    older = keys.find(before.partition(":")[0])
    same = older is not None and before != fingerprint and older.fingerprint(secret.address, value) == before
    return {"source": dict(secret.source), "fingerprint": fingerprint}, same


def recorded_keys(state: State) -> set[str]:
    """Ids of the keys that fingerprints in state are of."""
    found = (r.inputs.get("fingerprint") for r in state.resources.values() if r.type == ResourceType.SECRET)
    return {str(f).partition(":")[0] for f in found if f}


def see_secrets(secrets: GatheredSecrets, state: State, seen: Mapping[str, Seen]) -> dict[str, Seen]:
    """What is seen, with recorded secrets unknown whose value is not here. What the control plane lost is gone nevertheless."""
    result = dict(seen)
    for address, because in secrets.missing.items():
        recorded = state.resources.get(address)
        absent = address in seen and seen[address].presence is Presence.ABSENT
        if recorded and recorded.outputs.get("version") and not absent:
            result[address] = Seen(Presence.UNKNOWN, because=f"{NOT_HERE}{because}; it is left as it was applied")
    return result


def environ_without(project: Project) -> dict[str, str]:
    """The command line's environment less what only it is to have: keys, passphrases, and variables that are a secret's source."""
    names = {str(s.source["env"]) for s in project.spec.secrets if "env" in s.source} | variables_of(project.spec)
    return {n: v for n, v in project.environ.items() if n not in names and n != VARIABLE}


def versions_of(state: State, dependencies: tuple[str, ...]) -> dict[str, str]:
    """Name -> version of the secrets among an app's dependencies, as they were applied."""
    found = {}
    for address in dependencies:
        if address.startswith(f"{ResourceType.SECRET}."):
            found[address.rpartition(".")[2]] = str(cast("str", state.resources[address].outputs["version"]))
    return found
