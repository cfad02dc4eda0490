"""The reference of the spec as Markdown, from the models. Knows no key by itself."""

from __future__ import annotations

import json
from typing import Any

from falplan.core.spec.codes import Code
from falplan.core.spec.machine_types import BUILT_IN, MB
from falplan.core.spec.models import LATER, SECTIONS
from falplan.core.spec.schema import spec_schema
from falplan.core.spec.words import NAME_RULE

TITLES = {
    "": "Top level",
    "variables": "`variables.<name>`",
    "state": "`state`",
    "encryption": "`state.encryption`",
    "key": "`state.encryption.key`, and each of `previous`",
    "passphrase": "`state.encryption.key.passphrase`",
    "gateway": "`gateway`",
    "tls": "`gateway.tls`",
    "regions": "`regions.<name>`, with `provider: local`",
    "ssh": "`regions.<name>`, with `provider: ssh`",
    "hosts": "`regions.<name>.hosts.<name>`",
    "aws": "`regions.<name>`, with `provider: aws`",
    "disk": "`regions.<name>.disk`",
    "machine_types": "`machine_types.<name>`",
    "environments": "`environments.<name>`",
    "secrets": "`environments.<name>.secrets.<NAME>`",
    "apps": "`apps.<name>`",
    "health_check": "`apps.<name>.health_check`",
    "reserve": "`regions.<name>.reserve`",
    "capacity": "`regions.<name>.capacity`",
    "moved": "`moved[]`",
    "removed": "`removed[]`",
    "import": "`import[]`",
    "drift": "`drift`",
    "ignore": "`drift.ignore[]`",
    "checks": "`checks.<name>`",
    "outputs": "`outputs.<name>`",
    "policies": "`policies.<name>`",
    "parameters": "`policies.<name>.parameters`",
}

INTRODUCTION = f"""\
<!-- Generated from the models; `make docs` writes it. -->
# The spec

One YAML file, `falplan.yaml`, or a folder of them merged (`-f folder`). A name is {NAME_RULE}.

- YAML 1.2: `NO` and `on` are text, `0o17` is octal. Text keeps what is written: `python_version: 3.10` is 3.10.
- A duration is a number of seconds, or text such as `1m30s`, `2h`, `250ms`.
- A size is a number of bytes, or text: `512MB` is 512·10⁶, `1GiB` is 2³⁰.
- Any value may be a template in quotes, `"{{{{ var.tag }}}}"`. In scope: `var`, `project`, and inside apps `environment` and
  `each`. A value that is exactly one expression keeps a number or boolean; everything else is text.
- Settings of an app come from the environment, then the app, then the class's attributes, then the platform's defaults.
- Unknown keys are errors. Limits: 16 MiB a file, 1,000,000 values, 64 levels, 10,000 files and 2 GiB an app.
"""


def spec_reference() -> str:
    """The whole page, with a newline at its end."""
    parts = [INTRODUCTION]
    schema: Any = spec_schema()
    for section, model in SECTIONS.items():
        definition = schema if section == "" else schema["$defs"][model.__name__]
        parts.append(_section(section, definition, schema["$defs"]))
    parts += [_machine_types(), _later(), _codes()]
    return "\n".join(parts)


def _section(section: str, definition: dict[str, Any], definitions: dict[str, Any]) -> str:
    required = set(definition.get("required", ()))
    lines = [
        f"## {TITLES[section]}\n",
        definition.get("description", ""),
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, value in definition["properties"].items():
        default = "required" if key in required else _default(value)
        lines.append(f"| `{key}` | {_type(value)} | {default} | {_cell(_meaning(value, definitions))} |")
    return "\n".join(lines) + "\n"


def _meaning(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The key's own meaning, or that of the model that it holds when both are the same."""
    below = definitions.get(str(value.get("$ref", "")).rpartition("/")[2], {})
    return str(value.get("description") or below.get("description", ""))


def _default(value: dict[str, Any]) -> str:
    if "default" not in value or value["default"] is None:
        return ""
    return f"`{json.dumps(value['default'])}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return "" if name == "Template" else "mapping"
    if "anyOf" in value:
        found = [_type(option) for option in value["anyOf"]]
        return " or ".join(dict.fromkeys(word for word in found if word))
    if "enum" in value:
        return ", ".join(f"`{word}`" for word in value["enum"])
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    return _plain_type(value)


def _plain_type(value: dict[str, Any]) -> str:
    names = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number", "boolean": "boolean"}
    kind = value.get("type")
    if isinstance(kind, list):
        return "text"
    if kind is None:
        return "any"
    word = names.get(kind, str(kind))
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f"{word} {low}–{high}"
    return f"{word} ≥ {low}" if low is not None else word


def _machine_types() -> str:
    lines = ["## Machine types\n", "For one GPU; `num_gpus` multiplies. Sizes in MB (10⁶ bytes).\n"]
    lines += ["| name | vCPU | RAM | GPU | VRAM |", "|---|---|---|---|---|"]
    for made in BUILT_IN.values():
        vram = f"{made.vram // MB:,}" if made.vram else ""
        lines.append(f"| `{made.name}` | {made.vcpu:g} | {made.ram // MB:,} | {made.gpu or ''} | {vram} |")
    return "\n".join(lines) + "\n"


def _later() -> str:
    lines = ["## Not supported in this version\n", "These keys are refused by name, never ignored.\n"]
    for section, keys in LATER.items():
        where = TITLES[section].lower() if section == "" else TITLES[section]
        lines.append(f"- {where}: " + ", ".join(f"`{key}`" for key in keys))
    return "\n".join(lines) + "\n"


def _codes() -> str:
    lines = [
        "## Codes\n",
        "The code of a finding keeps its meaning from version to version.\n",
        "| code | about |",
        "|---|---|",
    ]
    lines += [f"| {code.value} | {code.name.lower().replace('_', ' ')} |" for code in Code]
    return "\n".join(lines) + "\n"
