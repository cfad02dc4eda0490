"""What this machine is."""

from __future__ import annotations

import os
import sys

from falplan.core.platforms import platform_name
from falplan.runner.inventory import libc_of


def own_platform() -> str:
    """This machine's platform, as `linux-x86_64`."""
    return platform_name(sys.platform, os.uname().machine, libc_of()[0])
