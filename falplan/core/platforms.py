"""What packages are made for, by name: `linux-x86_64`, `linux-aarch64-musl`. Knows what uv and pip call them; asks nobody."""

from __future__ import annotations

MUSL = "-musl"
NEWEST = {"glibc": (2, 28), "musl": (1, 2)}
"""The newest C library that packages for another machine may be made for: uv locks for the same one."""

OLDEST = {"glibc": (2, 5), "musl": (1, 0)}
LEGACY = {"x86_64": ("manylinux1", "manylinux2010", "manylinux2014"), "aarch64": ("manylinux2014",)}

UV = {
    "linux-x86_64": "x86_64-unknown-linux-gnu",
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "linux-x86_64-musl": "x86_64-unknown-linux-musl",
    "linux-aarch64-musl": "aarch64-unknown-linux-musl",
}
"""Those that environments are made for, as uv's `--python-platform`."""


def platform_name(os: str, arch: str, libc: str) -> str:
    """The name of a machine's platform. `arch` as the machine says it, or as falplan does (`arm64`)."""
    machine = {"arm64": "aarch64"}.get(arch, arch) if os == "linux" else arch
    return f"{os}-{machine}{MUSL if libc == 'musl' else ''}"


def wheel_tags(platform: str) -> list[str]:
    """What wheels for a platform may be called, the newest first, as pip's `--platform`.

    Raises:
        KeyError: environments are made for no such platform.
    """
    UV[platform]
    machine = platform.removeprefix("linux-").removesuffix(MUSL)
    libc, word = ("musl", "musllinux") if platform.endswith(MUSL) else ("glibc", "manylinux")
    major, newest = NEWEST[libc]
    numbered = [f"{word}_{major}_{minor}_{machine}" for minor in range(newest, OLDEST[libc][1] - 1, -1)]
    legacy = [f"{name}_{machine}" for name in LEGACY[machine]] if libc == "glibc" else []
    return [*numbered, *legacy, f"linux_{machine}"]
