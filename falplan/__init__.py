"""falplan: plan and apply fal-style apps on your own machines."""

__version__ = "0.1.0"
