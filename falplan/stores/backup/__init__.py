"""Backups of a control plane's folder: one checked file out, one checked file in."""
