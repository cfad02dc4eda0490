"""The settings of an app: their defaults, and whether a change makes a new revision or is made in place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from falplan.core.values import Json


class Binding(StrEnum):
    """What a changed value leads to."""

    REVISION = "revision"  #: bound to the code: a change makes a new revision
    RUNTIME = "runtime"  #: read by the control plane: a change is made in place, on running runners


@dataclass(frozen=True, slots=True)
class AppField:
    """A setting of an app. `default` is fal's platform default; `unit` is for people."""

    name: str
    default: Json
    binding: Binding
    unit: str
    meaning: str
    class_attribute: bool = True


NOT_ABOVE = (
    ("min_concurrency", "max_concurrency"),
    ("concurrency_buffer", "max_concurrency"),
)
"""Pairs of settings of which the first may not be above the second."""

R, L = Binding.REVISION, Binding.RUNTIME

APP_FIELDS: dict[str, AppField] = {
    f.name: f
    for f in (
        AppField("requirements", [], R, "", "Python requirements of the app, as pip reads them"),
        AppField(
            "python_version", None, R, "", "Python of the app's environment, as 3.11; the machine's own by default"
        ),
        AppField("machine_type", ["XS"], R, "", "machine types, tried in order"),
        AppField("num_gpus", None, R, "GPUs", "GPUs of a runner, 1 to 8; the machine type's own number by default"),
        AppField("max_multiplexing", 1, R, "requests", "requests that one runner serves at a time"),
        AppField("startup_timeout", 600, R, "seconds", "time until setup is done and the runner is healthy"),
        AppField("termination_grace_period_seconds", 5, R, "seconds", "time between SIGTERM and SIGKILL"),
        AppField(
            "health_check", None, R, "", "`{path, method, timeout_seconds, failure_threshold, call_regularly}`", False
        ),
        AppField("environment_variables", {}, R, "", "plain environment variables of the runners", False),
        AppField(
            "secrets",
            None,
            R,
            "",
            "secrets of the environment that the app gets; all by default, none for an empty list",
        ),
        AppField(
            "tags",
            {},
            L,
            "",
            "names and text that policies and people read; laid over those of environment and project",
            False,
        ),
        AppField("regions", None, L, "", "regions that runners may be put in; all by default"),
        AppField("auth", "private", L, "", "private: needs a key; public: needs none", False),
        AppField("strategy", "rolling", L, "", "rolling: verify, then switch; recreate: switch at once", False),
        AppField("min_concurrency", 0, L, "runners", "runners that are always up"),
        AppField("max_concurrency", 2, L, "runners", "most runners at any time"),
        AppField("concurrency_buffer", 0, L, "runners", "runners beyond the current need"),
        AppField("concurrency_buffer_perc", 0, L, "percent", "the same as a share of the need; the larger wins"),
        AppField("scaling_delay", 0, L, "seconds", "time that a request waits before it asks for another runner"),
        AppField("keep_alive", 10, L, "seconds", "time that an idle runner is kept"),
        AppField("request_timeout", 3600, L, "seconds", "longest run of one attempt"),
        AppField("request_start_timeout", None, L, "seconds", "longest wait for a start; none by default"),
        AppField(
            "skip_retry_conditions", [], L, "", "of timeout, server_error, connection_error: those not tried again"
        ),
    )
}
"""name -> field, in the order in which plans print them. Source of names and defaults: fal's own."""
