"""Imported by apps beside it."""


def greet(name: str) -> str:
    return f"hello {name}"
