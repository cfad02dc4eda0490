"""The spec: its models, and what it means once variables, overlays and defaults are resolved."""
