"""Files that are made from the code: `make schemas` writes them, a test compares them."""

from __future__ import annotations

from pathlib import Path

from falplan.cli.reference import commands_page
from falplan.cli.schema import SCHEMAS, schema_text
from falplan.stores.runtime.migrations import schema_text as database_schema
from falplan.views.reference import spec_reference

ROOT = Path(__file__).parents[1]


def generated() -> dict[Path, str]:
    """Path -> content of every generated file."""
    files = {ROOT / "schemas" / f"{name}.json": schema_text(name) for name in SCHEMAS}
    files[ROOT / "docs" / "reference" / "commands.md"] = commands_page()
    files[ROOT / "docs" / "reference" / "spec.md"] = spec_reference()
    files[ROOT / "falplan" / "stores" / "runtime" / "schema.sql"] = database_schema()
    return files


def write() -> None:
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    write()
