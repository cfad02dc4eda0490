"""A module of a package beside the app."""


def greet(name: str) -> str:
    return f"hello {name}"
