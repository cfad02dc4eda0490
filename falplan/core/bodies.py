"""The bodies of operations, as models: where bytes of a command line come in."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from falplan.core.operations import OperationKind


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}(\.[0-9]{1,6})?$")]
"""US dollars as text."""


class BudgetsBody(_Body):
    """Most that runners may cost, in USD an hour: all of them, those of an environment, those in a region."""

    project: Amount | None = None
    environments: dict[str, Amount] = Field(default_factory=dict)
    regions: dict[str, Amount] = Field(default_factory=dict)


class ConfigureBody(_Body):
    """The regions that runners may be put in: name -> `{"provider": …}` and the provider's own options.

    `prices` are by region and machine type; `budgets` holds `project`, and `environments` and `regions` by name. All amounts are text,
    USD an hour. `warm` is the room that is kept free, as `falplan.core.warm.warm_to_json` tells it.
    """

    regions: dict[str, dict[str, JsonValue]]
    prices: dict[str, dict[str, Amount]] = Field(default_factory=dict)
    budgets: BudgetsBody = BudgetsBody()
    warm: dict[str, dict[str, dict[str, JsonValue]]] = Field(default_factory=dict)


class HostBody(_Body):
    """Take a host, so that runners are put there. `options` are those of its region that declare it, as `{"hosts": {"gpu-01": {…}}}`."""

    address: str
    region: str
    options: dict[str, JsonValue]


class RegionBody(_Body):
    """Give up a region: nothing is bought there any more, and its machines are emptied and ended."""

    region: str


class NeedBody(_Body):
    """What an app's runners ask of a machine: machine types with their sizes, in order of preference; regions None means any."""

    regions: list[str] | None = None
    num_gpus: int | None = None
    machine_types: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)


class BuildBody(_Body):
    """Lock requirements for the machines on which runners may be, and build the environment here if one may be here.

    With an `image` instead: fetch it on all of these machines.
    `anew`: as if they had never been locked. `need` None: nobody says where runners may be. It is advice (`ADVICE`).
    """

    address: str
    kind: str
    requirements: list[str] = Field(default_factory=list)
    python_version: str | None = None
    image: str = ""
    anew: bool = False
    need: NeedBody | None = None


ADVICE = frozenset({"need"})
"""Keys of bodies that help an operation along and are no part of what it is: asked for again with others, it is the same one."""


class DeployBody(_Body):
    """Make this the app: a new revision if the code-bound part changed, settings alone otherwise.

    `inputs` is the resource as planned; `lock` the digest of the build's lock, None for a command without an environment; `bundle`
    the digest of the uploaded files. `secrets` names the version of each secret that the app gets.
    """

    address: str
    inputs: dict[str, JsonValue]
    lock: str | None
    bundle: str
    machine_types: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)


class AddressBody(_Body):
    """An operation on something that exists."""

    address: str
    endpoint: str = ""


class StopRunnerBody(_Body):
    """Stop one runner; with `replace`, once another one is ready."""

    runner_id: str
    replace: bool = False


class MachineBody(_Body):
    """Empty a machine that was bought, and give it back."""

    machine: str


class ReapBody(_Body):
    """End the machines of another control plane of this project, which somebody says is gone for good."""

    control_plane: str


class OverrideBody(_Body):
    """Change runtime settings of an app in place, until the next deploy of it. Values are as in the spec."""

    address: str
    endpoint: str
    settings: dict[str, JsonValue]


class SetRevisionBody(_Body):
    """Let another revision serve that is kept, until the next deploy."""

    address: str
    endpoint: str
    revision: str


BODIES: dict[OperationKind, type[_Body]] = {
    OperationKind.CONFIGURE: ConfigureBody,
    OperationKind.ADD_HOST: HostBody,
    OperationKind.REMOVE_HOST: AddressBody,
    OperationKind.FORGET_HOST: AddressBody,
    OperationKind.CLOSE_REGION: RegionBody,
    OperationKind.BUILD: BuildBody,
    OperationKind.DEPLOY: DeployBody,
    OperationKind.DELETE_APP: AddressBody,
    OperationKind.DELETE_BUILD: AddressBody,
    OperationKind.DELETE_SECRET: AddressBody,
    OperationKind.STOP_RUNNER: StopRunnerBody,
    OperationKind.END_MACHINE: MachineBody,
    OperationKind.REAP: ReapBody,
    OperationKind.OVERRIDE: OverrideBody,
    OperationKind.SET_REVISION: SetRevisionBody,
    OperationKind.RESET: AddressBody,
}
"""Bodies of what is asked for with POST /operations. A secret's value comes another way, so that it is in none of them."""
