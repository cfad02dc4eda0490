"""A package beside the app, found by its import."""

from words.greeting import greet

__all__ = ["greet"]
