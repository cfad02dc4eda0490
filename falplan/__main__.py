"""`python -m falplan`."""

from __future__ import annotations

from falplan.cli import main

main()
