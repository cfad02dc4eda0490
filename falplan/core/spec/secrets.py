"""Which texts look like secrets. Never shows one."""

from __future__ import annotations

import re

_SHAPES = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|://[^/@\s:]+:[^/@\s]+@"
)
_NAMES = re.compile(r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY)$", re.IGNORECASE)


def looks_secret(name: str, value: str) -> bool:
    """Whether a name says that its value is a secret, or the value has the shape of one."""
    return bool(value) and (_NAMES.search(name) is not None or _SHAPES.search(value) is not None)
