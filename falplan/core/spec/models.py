"""The spec as it is written: every key, its type, default and meaning. Knows nothing of files, positions or what is deployed."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from falplan.core.spec.aws import AwsRegion, Disk
from falplan.core.spec.codes import Code
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.spec.images import Image
from falplan.core.spec.model import Model, one_of
from falplan.core.spec.regions import Capacity, LocalRegion, Slots, SshHost, SshRegion, any_region
from falplan.core.spec.rules import Check, Output, Policy, PolicyParameters
from falplan.core.spec.tree import is_null
from falplan.core.spec.types import (
    Argv,
    Bool,
    Count,
    Duration,
    Money,
    Name,
    OptionalDuration,
    OptionalGpus,
    Percent,
    Port,
    Positive,
    RelativePath,
    Size,
    Tags,
    Text,
    TypeName,
    TypeNames,
    Vcpu,
    boolean,
    choice,
    fault,
    host_name,
    https_url,
    ip_address,
    one_or_many,
    optional,
    path,
    text,
    whole,
)

SPEC_VERSION = 1
VARIABLE_TYPES = ("str", "int", "float", "bool")
SECRET_SOURCES = ("env", "file", "command", "stored")
RETRY_CONDITIONS = ("timeout", "server_error", "connection_error")


def setting(name: str, **extra: Any) -> Any:
    """A field whose default and meaning are those of APP_FIELDS."""
    known = APP_FIELDS[name]
    unit = f" In {known.unit}." if known.unit else ""
    bound = " A change makes a new revision." if known.binding == "revision" else " Changed in place."
    meaning = known.meaning[0].upper() + known.meaning[1:] + "."
    return Field(default=known.default, description=meaning + unit + bound, **extra)


def _version(value: Any) -> int:
    found = whole(1)(value)
    if found == SPEC_VERSION:
        return found
    raise fault(
        Code.VERSION,
        f"spec version {found} is newer than this falplan reads",
        "it reads version 1; install a newer falplan",
    )


def _python(value: Any) -> str:
    word = text(value)
    major, dot, minor = word.partition(".")
    if major == "3" and dot and minor.isdecimal() and len(minor) <= 2:
        return word
    raise fault(Code.RANGE, "not a Python version", 'write it as "3.11"')


def _requirements(value: Any) -> list[str] | str:
    """A list of requirement lines, or the path of a requirements file; fal's layers are put one behind the other."""
    if isinstance(value, list | tuple):
        lines: list[str] = []
        for item in value:
            lines += [text(line) for line in item] if isinstance(item, list | tuple) else [text(item)]
        return lines
    return path(value)


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise fault(Code.TYPE, "expected a mapping of names to text")
    for key in value:
        if not key or not key.isidentifier() or not key.isascii():
            raise fault(
                Code.NAME, "bad name of an environment variable", "letters, digits and underscore, no digit first"
            )
    return {str(key): text(item) for key, item in value.items()}


RESERVED = ("PORT", "HOST")
"""Variables of a runner that falplan itself sets, beside everything that begins with FALPLAN_."""


def _secret_name(value: Any) -> str:
    word = str(value)
    if not word.isascii() or not word.isidentifier() or len(word) > 128:
        hint = "letters, digits and underscore, no digit first, at most 128"
        raise fault(Code.NAME, "bad name of a secret: it is an environment variable of the app", hint)
    if word in RESERVED or word.startswith("FALPLAN_"):
        raise fault(Code.NAME, "falplan sets this variable itself", "choose another name")
    return word


def _secret_source(value: Any) -> Any:
    """A secret is a place to read it from. A value in its stead is refused, and never shown."""
    if isinstance(value, str) and not is_null(value):
        hint = "say where it is: {env: NAME}, {file: path}, {command: [argv]} or {stored: true}"
        raise fault(Code.LITERAL_SECRET, "the value of a secret may not stand in the spec", hint)
    if isinstance(value, dict):
        given = [key for key in SECRET_SOURCES if key in value]
        if len(given) != 1 and all(key in SECRET_SOURCES for key in value):
            raise fault(Code.CONFLICT, "a secret has exactly one of env, file, command and stored")
    return value


def _stored(value: Any) -> bool:
    if boolean(value):
        return True
    raise fault(Code.RANGE, "stored is true or absent", "write `stored: true`, or another source")


def _variable_name(value: Any) -> str:
    word = text(value)
    if word and "=" not in word and "\0" not in word:
        return word
    raise fault(Code.NAME, "not the name of an environment variable")


KEYS = ("passphrase", "env", "project", "kms")
"""Kinds of keys that state is encrypted with."""

_KEY_SCHEMA: dict[str, Any] = {"anyOf": [{"const": "none"}, {"x-ref": "EncryptionKey"}]}


def _encryption_key(value: Any) -> Any:
    """Where a key is; `none` is a mapping without any. A key in its stead is refused, and never shown."""
    if isinstance(value, str) and not is_null(value):
        if value == "none":
            return {}
        hint = "say where it is: {passphrase: {file: path}}, {env: NAME}, {project: true}, {kms: ARN}, or none"
        raise fault(Code.LITERAL_SECRET, "a key may not stand in the spec", hint)
    if isinstance(value, dict):
        given = [key for key in KEYS if key in value]
        if len(given) != 1 and set(value) <= set(EncryptionKey.model_fields):
            raise fault(Code.CONFLICT, "a key is exactly one of passphrase, env, project and kms")
        if given != ["kms"] and ("region" in value or "endpoint_url" in value):
            raise fault(Code.CONFLICT, "`region` and `endpoint_url` go with `kms`")
    return value


def _passphrase(value: Any) -> Any:
    """Where a passphrase is read from. The passphrase itself in its stead is refused, and never shown."""
    if isinstance(value, str) and not is_null(value):
        hint = "say where it is: {file: path} or {env: NAME}"
        raise fault(Code.LITERAL_SECRET, "a passphrase may not stand in the spec", hint)
    if isinstance(value, dict) and set(value) <= {"file", "env"} and len(value) != 1:
        raise fault(Code.CONFLICT, "a passphrase has exactly one of file and env")
    return value


def _only_true(value: Any) -> bool:
    if boolean(value):
        return True
    raise fault(Code.RANGE, "project is true or absent", "write `project: true`, or another key")


def _listed_secrets(value: Any) -> list[str]:
    return [] if isinstance(value, list | tuple) and not value else one_or_many(text)(value)


def _none_if_null(value: Any) -> Any:
    return None if is_null(value) else value


def _apps_overlay(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if text(value) == "all":
        return "all"
    raise fault(Code.RANGE, "expected `all` or a mapping of apps")


def _for_each(value: Any) -> Any:
    if isinstance(value, list | dict):
        return value
    raise fault(Code.TYPE, "expected a list of names, or a mapping of names to values")


def _http_path(value: Any) -> str:
    word = text(value)
    if word.startswith("/") and word.isprintable() and " " not in word and word.isascii():
        return word
    raise fault(Code.RANGE, "not a path of a URL", "it starts with / and holds no space")


def _region_and_host(value: Any) -> str:
    word = text(value)
    region, _, host = word.partition("/")
    if region and host and "/" not in host:
        return word
    raise fault(Code.RANGE, "not a host of a region", "such as dc1/gpu-01")


def _object_key(value: Any) -> str:
    word = text(value)
    if word and word.isprintable() and not word.startswith("/") and not word.endswith("/") and len(word) <= 512:
        return word
    raise fault(Code.RANGE, "not the key of an object", "such as falplan/demo/state.json, at most 512 characters")


def _endpoint(value: Any) -> str:
    word = text(value)
    scheme, found, rest = word.partition("://")
    if scheme in ("http", "https") and found and rest and "@" not in rest and rest.isprintable() and " " not in rest:
        return word.rstrip("/")
    raise fault(
        Code.RANGE, "not the URL of an S3 server", "such as https://minio.example.com:9000, without credentials"
    )


_DSN_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"env": {"type": "string"}},
            "required": ["env"],
            "additionalProperties": False,
        },
    ]
}


def _dsn(value: Any) -> str | dict[str, str]:
    if not isinstance(value, dict):
        return text(value)
    if set(value) == {"env"}:
        return {"env": _variable_name(value["env"])}
    raise fault(Code.SHAPE, "expected a connection string, or the variable that holds one", "such as {env: STATE_DSN}")


def _table(value: Any) -> str:
    word = text(value)
    parts = word.split(".")
    if len(parts) == 2 and all(p.isascii() and p.isidentifier() and len(p) <= 48 for p in parts):
        return word
    raise fault(Code.NAME, "not the name of a table", "schema and table, such as falplan.state")


class Variable(Model):
    """A value that the caller may give: `--var`, `--var-file`, then the environment variable, then the default."""

    type: Annotated[str, *one_of(*VARIABLE_TYPES)] = "str"
    """Type of the value: str, int, float or bool."""
    default: Annotated[Any, PlainValidator(lambda v: v), WithJsonSchema({"type": ["string", "number", "boolean"]})] = (
        None
    )
    """Value when nothing else gives one. Without it the variable must be given."""
    env: Text | None = None
    """Name of the environment variable that it is read from."""
    description: Text = ""
    """What it is for."""


class Passphrase(Model):
    """Where a passphrase is read from. Exactly one of these keys."""

    file: Text | None = None
    """Path of a file, relative to the spec's folder. One newline at its end is left out."""
    env: Annotated[str | None, PlainValidator(_variable_name), WithJsonSchema({"type": "string"})] = None
    """Name of an environment variable of the command line."""


class EncryptionKey(Model):
    """A key that state and plan files are encrypted with. Exactly one of passphrase, env, project and kms."""

    passphrase: Annotated[Passphrase | None, BeforeValidator(_passphrase)] = None
    """A passphrase of 16 characters or more, which the key is derived from (scrypt)."""
    env: Annotated[str | None, PlainValidator(_variable_name), WithJsonSchema({"type": "string"})] = None
    """Name of the environment variable that holds the key: base64 of 32 bytes, as `openssl rand -base64 32` makes them."""
    project: Annotated[bool | None, PlainValidator(_only_true), WithJsonSchema({"const": True})] = None
    """The key is derived from the project's own: `project.key`, or FALPLAN_PROJECT_KEY."""
    kms: Text | None = None
    """ARN, id or alias of a key of AWS KMS. Every run has a data key of its own, which this one wraps."""
    region: Text | None = None
    """Region of the KMS key. That of the ARN, then that of the environment, by default."""
    endpoint_url: Text | None = None
    """Where KMS is asked, in place of AWS."""


class Encryption(Model):
    """How state and saved plans are encrypted. With it, what is not encrypted is refused unless `previous` says otherwise."""

    key: Annotated[EncryptionKey, BeforeValidator(_encryption_key), WithJsonSchema(_KEY_SCHEMA)]
    """The key that writes, and reads. `none` writes in clear: for switching encryption off."""
    previous: Annotated[
        list[Annotated[EncryptionKey, BeforeValidator(_encryption_key)]],
        WithJsonSchema({"type": "array", "items": _KEY_SCHEMA}),
    ] = Field(
        default=[],
        description="Keys that are tried when reading and never write. `none` among them reads what is not encrypted: for switching it on.",
    )


class State(Model):
    """Where the plan's memory is kept."""

    backend: Annotated[str, *one_of("local", "s3", "postgres")] = "local"
    """Kind of store: `local`, a folder beside the spec; `s3`, a bucket of S3 or of a server that speaks it; `postgres`, a database."""
    path: RelativePath = ".falplan"
    """Folder on this machine, relative to the spec's: the state of the local backend, and with any backend the project's key."""
    bucket: Text | None = None
    """s3: the bucket, which exists already."""
    key: Annotated[str | None, PlainValidator(_object_key), WithJsonSchema({"type": "string", "minLength": 1})] = None
    """s3: name of the state's object; lock, journal and backups stand beside it. `falplan/<project>/state.json` by default."""
    region: Text | None = None
    """s3: the bucket's region. What the AWS profile or environment says by default."""
    endpoint_url: Annotated[
        str | None, PlainValidator(_endpoint), WithJsonSchema({"type": "string", "pattern": "^https?://"})
    ] = None
    """s3: URL of a server other than AWS. It must heed If-Match and If-None-Match in PutObject, which is tried out."""
    profile: Text | None = None
    """s3: profile of the AWS configuration. AWS_PROFILE or the usual chain of credentials by default."""
    dsn: Annotated[Any, PlainValidator(_dsn), WithJsonSchema(_DSN_SCHEMA)] = None
    """postgres: connection string of libpq without a password, or `{env: NAME}`. PGHOST, PGPASSWORD, ~/.pgpass and the like count."""
    table: Annotated[str | None, PlainValidator(_table), WithJsonSchema({"type": "string"})] = None
    """postgres: `schema.table`, and the first part of the other tables' names. `falplan.state` by default; a row for each project."""
    encryption: Annotated[Encryption | None, BeforeValidator(_none_if_null)] = None
    """How state and saved plans are encrypted. They are not by default."""


class Tls(Model):
    """A certificate of your own in place of one that the control plane's CA signs."""

    cert: Text
    """PEM file with the certificate and what stands between it and its root; relative paths start at the spec's folder."""
    key: Text
    """PEM file with the private key, without a passphrase. Both files are looked at again when they change."""


class Gateway(Model):
    """Where the control plane lives: on this machine (`provider: local`), on a host (`host`), or wherever one runs already (`url`)."""

    provider: Annotated[str, *one_of("local", later=("ssh", "aws"))] | None = None
    """`local`, which is the default: on the machine that apply runs on."""
    host: (
        Annotated[str, PlainValidator(_region_and_host), WithJsonSchema({"type": "string", "pattern": "/"})] | None
    ) = None
    """A host of a region, as `dc1/gpu-01`: the control plane is installed there, and kept running by systemd where there is one."""
    port: Port | None = None
    """TCP port that callers reach. A free one is chosen once and kept when it is not given."""
    listen: Annotated[str, PlainValidator(ip_address), WithJsonSchema({"type": "string"})] | None = None
    """IP address to listen on: 127.0.0.1 by default, 0.0.0.0 or :: for every address of the machine."""
    hostname: Annotated[str, PlainValidator(host_name), WithJsonSchema({"type": "string"})] | None = None
    """Name or address that callers use. It stands in the certificate and in every URL. The address of `listen` by default."""
    tls: Annotated[Tls | None, BeforeValidator(_none_if_null)] = None
    """A certificate of your own. By default the control plane has its own CA, whose certificate stands in state."""
    ephemeral: Bool = False
    """Allow a local gateway where CI=true: it ends with the job's machine, and whatever it serves with it."""
    url: (
        Annotated[str, PlainValidator(https_url), WithJsonSchema({"type": "string", "pattern": "^https://"})] | None
    ) = None
    """A control plane that runs already: it is used as it is, never started or stopped."""
    ca: Text | None = None
    """PEM file with the CA that signed the certificate at `url`, relative to the spec's folder. Public CAs by default."""
    protect: Bool = False
    """Refuse whatever would destroy or replace the control plane."""


class MachineTypeModel(Model):
    """A machine type of your own, or other sizes for one of fal's. Sizes of fal's stay unless they are given."""

    vcpu: Vcpu | None = None
    """Virtual CPUs of a runner; fractions are allowed. Required for a new name."""
    ram: Size | None = None
    """Main memory of a runner in bytes, or text such as 512MB or 1GiB. Required for a new name."""
    gpu: Text | None = None
    """Name of the GPU, as the machine reports it: A100."""
    gpus: (
        Annotated[int, PlainValidator(whole(0, 8)), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 8})]
        | None
    ) = None
    """GPUs of a runner; `num_gpus` of an app multiplies them."""
    vram: Size | None = None
    """Memory that one GPU must have, in bytes or text such as 80GB."""
    price_per_hour: Money | None = None
    """What one runner of it costs, in USD an hour; `num_gpus` of an app multiplies it. Not known by default, which is not 0."""


class HealthCheck(Model):
    """How a runner is asked whether it is well."""

    path: Annotated[str, PlainValidator(_http_path), WithJsonSchema({"type": "string", "pattern": "^/"})] = "/health"
    """Path of the URL."""
    method: Annotated[str, *one_of("GET", "POST")] = "GET"
    """HTTP method. POST is what `@fal.endpoint(health_check=…)` uses."""
    timeout_seconds: Duration = 5
    """Time that an answer may take, in seconds."""
    failure_threshold: Positive = 3
    """Failures in a row after which the runner is replaced."""
    call_regularly: Bool = True
    """Ask again while the runner serves, not only at its start."""


class Settings(Model):
    """The settings of an app, under fal's names."""

    requirements: Annotated[
        list[str] | str,
        PlainValidator(_requirements),
        WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
    ] = setting("requirements", examples=[["torch==2.6.0"], "requirements.txt"])
    python_version: Annotated[
        str | None,
        PlainValidator(optional(_python)),
        WithJsonSchema({"anyOf": [{"type": ["string", "number"]}, {"type": "null"}]}),
    ] = setting("python_version", examples=["3.11"])
    machine_type: TypeNames = setting("machine_type", examples=["GPU-A100", ["GPU-A100", "GPU-H100"]])
    num_gpus: OptionalGpus = setting("num_gpus", examples=[1])
    max_multiplexing: Positive = setting("max_multiplexing")
    startup_timeout: Duration = setting("startup_timeout", examples=[600, "10m"])
    termination_grace_period_seconds: Duration = setting("termination_grace_period_seconds")
    health_check: Annotated[HealthCheck | None, BeforeValidator(_none_if_null)] = setting(
        "health_check", examples=[{"path": "/health"}]
    )
    environment_variables: Annotated[
        dict[str, str],
        PlainValidator(_environment),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
    ] = setting("environment_variables", examples=[{"LOG_LEVEL": "info"}])
    secrets: Annotated[
        list[str] | None,
        PlainValidator(optional(_listed_secrets)),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
        ),
    ] = setting("secrets", examples=[["HF_TOKEN"], []])
    tags: Tags = setting("tags", examples=[{"team": "vision"}])
    regions: Annotated[
        list[str] | None,
        PlainValidator(optional(one_or_many(text))),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    {"type": "null"},
                ]
            }
        ),
    ] = setting("regions", examples=[["local"]])
    auth: Annotated[str, *one_of("private", "public", later=("shared",))] = setting("auth")
    strategy: Annotated[str, *one_of("rolling", "recreate")] = setting("strategy")
    min_concurrency: Count = setting("min_concurrency")
    max_concurrency: Positive = setting("max_concurrency")
    concurrency_buffer: Count = setting("concurrency_buffer")
    concurrency_buffer_perc: Percent = setting("concurrency_buffer_perc")
    scaling_delay: Duration = setting("scaling_delay")
    keep_alive: Duration = setting("keep_alive", examples=[60, "5m"])
    request_timeout: Duration = setting("request_timeout")
    request_start_timeout: OptionalDuration = setting("request_start_timeout")
    skip_retry_conditions: Annotated[
        list[str],
        PlainValidator(lambda v: [] if isinstance(v, list) and not v else one_or_many(choice(*RETRY_CONDITIONS))(v)),
        WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(RETRY_CONDITIONS)}}),
    ] = setting("skip_retry_conditions")


class AppModel(Settings):
    """An app: a fal.App class, any command that listens on $PORT, or a container. Exactly one of `app`, `command` and `image`, but for
    `command` beside `image`."""

    app: Text | None = Field(
        default=None,
        description="A fal.App: path of its file, `::`, name of its class.",
        examples=["app.py::TextToImage"],
    )
    command: Argv | None = Field(
        default=None,
        description="A program that serves HTTP on 127.0.0.1:$PORT. Text is split as a POSIX shell splits it; no shell runs it. Beside "
        "`image` it is what the container runs in place of the image's own command.",
        examples=["python -m server", ["python", "-m", "server"]],
    )
    image: Image | None = Field(
        default=None,
        description="A container image that serves HTTP, by its digest: NAME@sha256:…, which hosts fetch; or localhost/NAME or the image's "
        "own id, sha256:…, which hosts have already.",
        examples=["ghcr.io/acme/server@sha256:" + "0" * 64],
    )
    port: Port | None = Field(
        default=None,
        description="The port that the container listens on. Without it, the container is to listen on $PORT.",
        examples=[8000],
    )
    files: Annotated[
        list[str] | None,
        PlainValidator(one_or_many(path)),
        WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
    ] = Field(
        default=None,
        description="Globs of the files that travel with a command. By default the spec's folder, less what .gitignore and "
        ".falplanignore name.",
        examples=[["server/**/*.py", "weights.json"]],
    )
    app_files: Annotated[
        list[str] | None,
        PlainValidator(one_or_many(path)),
        WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
    ] = Field(
        default=None,
        description="Files, folders and globs that travel with a fal.App beside its local imports, relative to the spec's folder. "
        "Replaces the class's `app_files`.",
        examples=[["assets"]],
    )
    depends_on: Annotated[
        list[str],
        PlainValidator(lambda v: [] if isinstance(v, list) and not v else one_or_many(text)(v)),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = Field(
        default=[],
        description="Apps of the same environment that are deployed before this one.",
        examples=[["encoder"]],
    )
    protect: Annotated[
        bool | None, PlainValidator(optional(boolean)), WithJsonSchema({"type": ["boolean", "null"]})
    ] = Field(
        default=None,
        description="Refuse whatever would destroy or replace the app, also when it leaves the spec. The environment's by default.",
        examples=[True],
    )
    for_each: Annotated[
        Any,
        PlainValidator(_for_each),
        WithJsonSchema({"anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}]}),
    ] = Field(
        default=None,
        description="Repeat the app: `each.key` and `each.value` are in scope, and its name must use `{{ each.key }}`.",
        examples=[["small", "large"], {"small": 1, "large": 4}],
    )


class SecretSource(Model):
    """Where a secret is read from, on the machine that plans and applies. Exactly one of these keys."""

    env: Annotated[str | None, PlainValidator(_variable_name), WithJsonSchema({"type": "string"})] = None
    """Name of an environment variable of the command line."""
    file: Text | None = None
    """Path of a file, relative to the spec's folder. Its bytes are the value, all of them."""
    command: Argv | None = None
    """A program that prints the value, run without a shell in the spec's folder. One newline at the end of its output is left out."""
    stored: Annotated[bool | None, PlainValidator(_stored), WithJsonSchema({"const": True})] = None
    """The value is given with `falplan secrets set`, and kept by the control plane alone."""


SecretName: TypeAlias = Annotated[
    str, PlainValidator(_secret_name), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"})
]


class EnvironmentModel(Model):
    """An environment. `main` always exists and has every app; others have those that they list."""

    apps: Annotated[
        Any,
        PlainValidator(_apps_overlay),
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": "all"},
                    {
                        "type": "object",
                        "additionalProperties": {"anyOf": [{"x-ref": "AppOverlay"}, {"type": "null"}]},
                    },
                ]
            }
        ),
    ] = Field(
        default={},
        description="`all`, or the apps that run here, each with the settings that differ from the app's own. Mappings merge; "
        "lists and values replace.",
        examples=["all", {"text-to-image": {"max_concurrency": 1}}],
    )
    secrets: dict[SecretName, Annotated[SecretSource, BeforeValidator(_secret_source)]] = Field(
        default={},
        description="Secrets of this environment by name: where each value is read from, never the value. Apps find them in their "
        "environment variables. Environments share none: what is not listed here does not exist here.",
        examples=[{"HF_TOKEN": {"env": "HF_TOKEN"}}],
    )
    tags: Tags = Field(
        default={}, description="Tags of every app here; an app's own win.", examples=[{"stage": "test"}]
    )
    protect: Bool = Field(
        default=False,
        description="Refuse whatever would destroy or replace what is here, and the removal of the environment.",
        examples=[True],
    )
    budget_per_hour: Money | None = Field(
        default=None, description="Most that the runners here may cost, in USD an hour.", examples=[20]
    )


def _address(value: Any) -> str:
    word = text(value)
    if ADDRESS.fullmatch(word):
        return word
    hint = "write app.<environment>.<name>, build.<environment>.<name>, secret.<environment>.<NAME> or host.<region>.<name>"
    raise fault(Code.NAME, "not the address of a resource", hint)


ADDRESS = re.compile(
    r"(?:app|build|secret|host|network)\.[a-z0-9][a-z0-9-]*\.[A-Za-z0-9_][A-Za-z0-9_-]*|network\.[a-z0-9][a-z0-9-]*"
)
"""What `falplan state list` prints, less the gateway, which is neither moved nor forgotten."""

Address: TypeAlias = Annotated[
    str, PlainValidator(_address), WithJsonSchema({"type": "string", "pattern": f"^(?:{ADDRESS.pattern})$"})
]


def _day(value: Any) -> str:
    word = text(value)
    if re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", word):
        return word
    raise fault(Code.RANGE, "not a day", "write it as 2026-12-31")


class MovedModel(Model):
    """A resource has another address now: what state knows as `from` is `to`."""

    source: Address = Field(alias="from", description="The address that state knows.", examples=["app.main.old"])
    target: Address = Field(alias="to", description="The address in this spec.", examples=["app.main.new"])


class RemovedModel(Model):
    """A resource that is no longer in the spec leaves state."""

    address: Address = Field(alias="from", description="The address that state knows.", examples=["app.main.old"])
    destroy: Bool = False
    """Destroy it. By default it goes on without falplan."""


class ImportModel(Model):
    """Something that the control plane, or a region's provider, has already is managed from now on."""

    address: Address = Field(alias="to", description="The address in this spec.", examples=["app.main.hello"])
    id: Text = Field(
        description="What it is called there: an app's endpoint, a stored secret's version, a provider's own name of a host.",
        examples=["acme/hello"],
    )


class IgnoreModel(Model):
    """Drift that is known. It raises no alarm; what plan and apply do is not changed by it."""

    address: Text
    """Address of the resource; `*` stands for anything."""
    attribute: Text = ""
    """Attribute as `falplan drift` prints it; `*` stands for anything. Without it, all that may happen to the resource is ignored."""
    until: Annotated[str, PlainValidator(_day), WithJsonSchema({"type": "string", "format": "date"})] = ""
    """Last day on which this holds, in UTC."""
    because: Text = ""
    """Why, for people."""


class DriftModel(Model):
    """How `falplan drift` is alarmed."""

    ignore: list[IgnoreModel] = Field(default=[], description="Drift that raises no alarm.")


class SpecModel(Model):
    """A falplan spec: apps, and where and how they run."""

    version: Annotated[int, PlainValidator(_version), WithJsonSchema({"const": SPEC_VERSION})] = Field(
        description="Version of the spec's format: 1."
    )
    project: Name = Field(description="Name of the project.", examples=["demo"])
    owner: Name | None = Field(
        default=None,
        description="First part of endpoint ids, as in acme/text-to-image. The project's name by default.",
        examples=["acme"],
    )
    variables: dict[str, Variable] = Field(
        default={},
        description="Values that templates use as `{{ var.name }}`.",
        examples=[{"tag": {"type": "str", "default": "v1"}}],
    )
    state: State = Field(default=State(), description="Where the plan's memory is kept.")
    gateway: Gateway = Field(default=Gateway(), description="Where the control plane lives.")
    regions: dict[Name, Annotated[Any, PlainValidator(any_region), WithJsonSchema({"x-ref": "Region"})]] = Field(
        default={},
        description="Named places for runners. One, `local`, which is this machine, when none is given.",
        examples=[{"here": {"provider": "local"}}],
    )
    machine_types: dict[TypeName, MachineTypeModel] = Field(
        default={},
        description="Machine types of your own, and other sizes for fal's.",
        examples=[{"half-A100": {"vcpu": 6, "ram": "30GB"}}],
    )
    environments: dict[Name, Annotated[EnvironmentModel | None, BeforeValidator(_none_if_null)]] = Field(
        default={},
        description="`main`, which always exists, and environments beside it.",
        examples=[{"staging": {"apps": "all"}}],
    )
    apps: dict[Name, AppModel] = Field(default={}, description="The apps by name.")
    moved: list[MovedModel] = Field(
        default=[],
        description="Resources with other addresses than before. They may stay here for good: what was moved once is not moved again.",
        examples=[[{"from": "app.main.old", "to": "app.main.new"}]],
    )
    removed: list[RemovedModel] = Field(
        default=[],
        description="Resources that leave state when they leave the spec, and go on without falplan.",
        examples=[[{"from": "app.main.old"}]],
    )
    imports: list[ImportModel] = Field(
        default=[],
        alias="import",
        description="Resources that exist already.",
        examples=[[{"to": "app.main.hello", "id": "acme/hello"}]],
    )
    drift: DriftModel = Field(default=DriftModel(), description="How `falplan drift` is alarmed.")
    tags: Tags = Field(
        default={},
        description="Tags of every app; those of an environment and of an app win.",
        examples=[{"team": "vision"}],
    )
    budget_per_hour: Money | None = Field(
        default=None,
        description="Most that all runners may cost, in USD an hour: apply is refused where the fewest runners cost more, and no runner is "
        "launched beyond it.",
        examples=[60],
    )
    checks: dict[Name, Check] = Field(default={}, description="What must hold before or after an apply.")
    outputs: dict[Name, Output] = Field(default={}, description="Values for others, kept in state.")
    policies: dict[Name, Policy] = Field(default={}, description="Rules that every plan is held against.")


LATER: dict[str, dict[str, str]] = {
    "": {
        "webhooks": "webhooks",
        "networks": "networks",
    },
    "apps": {
        "dockerfile": "building images; it runs those that are built already, as `image: NAME@sha256:…`",
        "exposed_port": "a fixed port; a command listens on $PORT, a container on `port` or $PORT",
        "metrics_port": "metrics of runners",
        "data_mounts": "data mounts",
        "retry_config": "a number of tries a condition; it has `skip_retry_conditions`",
        "webhooks": "webhooks",
        "private_logs": "private logs",
        "app_files_ignore": "`app_files_ignore` in the spec; the class's own is read",
    },
    "environments": {
        "owner": "an owner for one environment",
    },
    "gateway": {
        "region": "a gateway in a region; it has `provider: local` and `host`",
    },
    "state": {"lock": "other locks"},
    "regions": {
        "region": "cloud regions; it has `provider: local`",
        "max_machines": "elastic regions; it has `provider: local`",
    },
}
"""section -> key -> what this version of falplan does not support. Such keys are refused by name, never ignored."""


SINGLE = ("state", "gateway", "drift")
"""Sections that are one mapping, not several by name."""

SECTIONS: dict[str, type[Model]] = {
    "": SpecModel,
    "variables": Variable,
    "state": State,
    "encryption": Encryption,
    "key": EncryptionKey,
    "passphrase": Passphrase,
    "gateway": Gateway,
    "tls": Tls,
    "regions": LocalRegion,
    "ssh": SshRegion,
    "hosts": SshHost,
    "aws": AwsRegion,
    "disk": Disk,
    "machine_types": MachineTypeModel,
    "environments": EnvironmentModel,
    "secrets": SecretSource,
    "apps": AppModel,
    "health_check": HealthCheck,
    "reserve": Slots,
    "capacity": Capacity,
    "moved": MovedModel,
    "removed": RemovedModel,
    "import": ImportModel,
    "drift": DriftModel,
    "ignore": IgnoreModel,
    "checks": Check,
    "outputs": Output,
    "policies": Policy,
    "parameters": PolicyParameters,
}
"""section -> model of its entries. The empty name is the top."""
