"""Builds lock for every platform on which runners may be, and make environments on machines where one will be alone."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.control.building import Places, build, places_of
from falplan.control.bundle_store import BundleStore
from falplan.control.environments import environment_key, keys_of
from falplan.control.host import Wanted
from falplan.control.lock_store import LockStore
from falplan.control.locks import Lock, advice_on, lock_from_bytes, lock_requirements, lock_to_bytes
from falplan.control.station import Station
from falplan.control.wheels import ensure_wheels
from falplan.core.errors import FalplanError
from falplan.core.placement import GIB, Need, Slots
from falplan.core.platforms import UV, platform_name, wheel_tags
from falplan.core.spec.resolved import AppKind, MachineType
from falplan.core.systems import System
from falplan.sdk.here import own_platform
from falplan.stores.home import ControlHome
from falplan_providers.local import LocalShell
from tests.lab.index import Index

pytestmark = pytest.mark.skipif(
    own_platform() != "linux-x86_64", reason="the other platforms are others than this one's"
)

ARM, MUSL, OWN = "linux-aarch64", "linux-x86_64-musl", "linux-x86_64"
TYPES = {"XS": MachineType("XS", 0.5, 512 * 10**6), "GPU-H100": MachineType("GPU-H100", 12, 112 * 10**9, "H100", 1)}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path / "index")
    for name, value in index.environment.items():
        monkeypatch.setenv(name, value)
    return index


def station(tmp_path: Path) -> Station:
    home = ControlHome(tmp_path / "home")
    return Station(home, LocalShell(), str(tmp_path / "machine"), BundleStore(home.bundles))


def wanted(*requirements: str) -> Wanted:
    return Wanted(AppKind.COMMAND.value, requirements)


def lock_for(tmp_path: Path, target: str, *requirements: str) -> Lock:
    cache = tmp_path / "cache"
    return lock_requirements(
        requirements, python=None, cache=cache, cwd=tmp_path, kind=AppKind.COMMAND, platform=target
    )


def machines_in(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "machine").glob("environments/*") if "." not in p.name)


# -- where ----------------------------------------------------------------------------------------------------------------

HERE = Slots("laptop", "here", 2, 8 * GIB, 2, 8 * GIB, system=System("x86_64", "glibc", pythons=("3.11", "3.12")))
HOST = Slots("dc1/a", "dc1", 2, 8 * GIB, 2, 8 * GIB, system=System("arm64", "glibc", pythons=("3.12",)))
ALPINE = Slots(
    "dc1/b", "dc1", 2, 8 * GIB, 2, 8 * GIB, system=System("x86_64", "musl", pythons=("3.11", "3.12"), offline=True)
)


@pytest.mark.parametrize(
    ("regions", "python", "places"),
    [
        (None, "3.12", Places(True, {ARM: ["dc1/a"], MUSL: ["dc1/b"]}, frozenset({MUSL}))),
        (("here",), "3.12", Places(True, {})),
        (("dc1",), "3.12", Places(False, {ARM: ["dc1/a"], MUSL: ["dc1/b"]}, frozenset({MUSL}))),
        (("dc1",), "3.11", Places(False, {MUSL: ["dc1/b"]}, frozenset({MUSL}))),  # the other one lacks it
    ],
)
def test_runners_may_be_where_they_fit_and_their_python_is(
    regions: tuple[str, ...] | None, python: str, places: Places
) -> None:
    asked = replace(wanted(), python=python, need=Need(("XS",), regions=regions), types=TYPES)

    assert places_of(asked, [HERE, HOST, ALPINE], lambda machine_id: "/" in machine_id) == places


def test_a_machine_that_is_too_small_or_says_nothing_asks_for_no_platform() -> None:
    asked = replace(wanted(), need=Need(("GPU-H100",)), types=TYPES)
    silent = replace(HOST, unknown="it does not answer")
    assert places_of(asked, [HERE, HOST], lambda m: "/" in m) == Places(False, {})
    assert places_of(replace(asked, need=Need(("XS",))), [silent], lambda m: True) == Places(False, {})
    assert places_of(wanted(), [], lambda m: True) == Places()  # nobody says where: as it always was


def test_platforms_have_names_for_uv_and_pip() -> None:
    assert platform_name("linux", "arm64", "glibc") == platform_name("linux", "aarch64", "") == ARM
    assert platform_name("darwin", "arm64", "") == "darwin-arm64"
    assert platform_name(sys.platform, platform.machine(), "glibc") == OWN
    assert wheel_tags(ARM)[0] == "manylinux_2_28_aarch64" and "manylinux2014_aarch64" in wheel_tags(ARM)
    assert wheel_tags(MUSL) == [f"musllinux_1_{n}_x86_64" for n in (2, 1, 0)] + ["linux_x86_64"]
    assert all(wheel_tags(name) for name in UV)


# -- locks ----------------------------------------------------------------------------------------------------------------


def test_requirements_are_locked_for_another_platform_with_what_there_is_for_it(tmp_path: Path, index: Index) -> None:
    """Seen red with a lock that is of this machine's platform in any case."""
    index.wheel("fp_apart", "1.0", "py3-none-manylinux_2_17_aarch64")
    index.wheel("fp_apart", "2.0", "py3-none-manylinux_2_17_x86_64")

    assert lock_for(tmp_path, ARM, "fp-apart").text.startswith("fp-apart==1.0 ")
    assert lock_for(tmp_path, OWN, "fp-apart").text.startswith("fp-apart==2.0 ")
    with pytest.raises(FalplanError, match="can't be locked"):
        lock_for(tmp_path, MUSL, "fp-apart")
    with pytest.raises(FalplanError, match="linux-riscv128 is none of linux-x86_64"):
        lock_for(tmp_path, "linux-riscv128", "fp-apart")


def test_a_platform_that_comes_later_gets_the_versions_of_the_first(tmp_path: Path, index: Index) -> None:
    """Seen red with the newest versions of that day."""
    index.wheel("fp_first", "1.0")
    here = station(tmp_path)
    built = build(here, wanted("fp-first"), Places(), lambda line: None)
    index.wheel("fp_first", "2.0")
    later = here.locks.on(built.lock, ARM, lambda line: None)

    assert later.text.startswith("fp-first==1.0 ") and later.platform == ARM and later.digest == built.lock
    assert here.locks.read(built.lock).texts.keys() == {OWN, ARM}
    assert here.locks.on(built.lock, ARM, print) == later


def test_a_lock_of_an_older_falplan_is_read_and_is_of_this_platform(tmp_path: Path) -> None:
    store = LockStore(ControlHome(tmp_path))
    old = lock_from_bytes(b'{"text": "six==1.16.0 --hash=sha256:00", "digest": "d", "python": "3.11", "packages": 1}')
    assert keys_of(old) == {environment_key(old.text, "3.11", "linux-x86_64")}
    store.home.locks.mkdir(parents=True)
    (store.home.locks / "d.json").write_bytes(lock_to_bytes(old))
    with pytest.raises(FalplanError, match="not locked for linux-aarch64") as caught:
        store.on("d", ARM, print)

    assert "falplan taint" in caught.value.detail
    assert store.on("d", OWN, print).text == old.text


def test_what_is_locked_for_one_platform_stays_when_it_is_locked_for_another_first(
    tmp_path: Path, index: Index
) -> None:
    index.wheel("fp_any")
    here = station(tmp_path)
    arm = build(here, wanted("fp-any"), Places(False, {ARM: ["dc1/a"]}), lambda line: None)
    own = build(here, wanted("fp-any"), Places(False, {OWN: ["dc1/c"]}), lambda line: None)

    assert arm.lock == own.lock  # the same packages
    assert here.locks.read(arm.lock).texts.keys() == {OWN, ARM}


# -- builds ---------------------------------------------------------------------------------------------------------------


def test_an_environment_is_made_here_only_if_a_runner_may_be_here(tmp_path: Path, index: Index) -> None:
    """Seen red with builds that made each environment on the control plane's machine."""
    index.wheel("fp_any")
    here, said = station(tmp_path), list[str]()
    built = build(here, wanted("fp-any"), Places(False, {ARM: ["dc1/a"], OWN: ["dc1/c"]}), said.append)
    assert machines_in(tmp_path) == [] and here.locks.digests() == [built.lock]
    assert said[-1] == f"locked 1 packages on {ARM}"

    build(here, wanted("fp-any"), Places(), said.append)
    assert len(machines_in(tmp_path)) == 1


def test_a_platform_that_can_not_be_locked_fails_the_build_by_name_and_leaves_nothing(
    tmp_path: Path, index: Index
) -> None:
    index.wheel("fp_here", tag="py3-none-manylinux_2_17_x86_64")
    here = station(tmp_path)
    with pytest.raises(FalplanError, match="can't be locked") as caught:
        build(here, wanted("fp-here"), Places(True, {ARM: ["dc1/a", "dc1/b"]}), lambda line: None)

    assert "For linux-aarch64, which dc1/a, dc1/b are: " in caught.value.detail
    assert "leave them out of its `regions`" in caught.value.detail
    assert here.locks.digests() == [] and machines_in(tmp_path) == []


def test_a_python_that_is_not_here_is_locked_for_hosts_all_the_same(tmp_path: Path, index: Index) -> None:
    """Seen red with a lock that asked for an interpreter of this machine."""
    index.wheel("fp_any")
    here = station(tmp_path)
    asked = replace(wanted("fp-any"), python="3.99")
    built = build(here, asked, Places(False, {OWN: ["dc1/a"]}), lambda line: None)
    assert here.locks.read(built.lock).python == "3.99"
    with pytest.raises(FalplanError, match=r"asks for Python 3\.99; this machine has .*3\.\d+"):
        build(here, asked, Places(), lambda line: None)


# -- wheels ---------------------------------------------------------------------------------------------------------------


def test_wheels_of_another_platform_are_fetched_and_sources_built_that_run_anywhere(
    tmp_path: Path, index: Index
) -> None:
    index.wheel("fp_arm", tag="py3-none-manylinux_2_28_aarch64")
    index.source("fp_pure", "py3-none-any")
    here = station(tmp_path)
    places = Places(False, {ARM: ["dc1/a"]}, frozenset({ARM}))
    built = build(here, wanted("fp-arm", "fp-pure"), places, lambda line: None)
    folder = ensure_wheels(here.home.cache, here.locks.on(built.lock, ARM, print), progress=pytest.fail)

    assert sorted(p.name for p in folder.iterdir()) == [
        "fp_arm-1.0-py3-none-manylinux_2_28_aarch64.whl",
        "fp_pure-1.0-py3-none-any.whl",
    ]


def test_a_source_that_is_built_for_this_machine_alone_fails_the_build_with_its_reason(
    tmp_path: Path, index: Index
) -> None:
    """Seen red with a wheel of this machine that was brought to the host."""
    index.source("fp_native", "py3-none-linux_x86_64")
    here = station(tmp_path)
    places = Places(False, {ARM: ["dc1/a"]}, frozenset({ARM}))
    with pytest.raises(FalplanError, match="There is no wheel for linux-aarch64") as caught:
        build(here, wanted("fp-native"), places, lambda line: None)
    assert "fp-native==1.0: there is none, and its source makes a wheel for this machine alone" in caught.value.detail
    assert caught.value.detail.startswith("For linux-aarch64, which dc1/a is: ")

    online = replace(places, offline=frozenset())  # where it is built on the host
    assert build(here, wanted("fp-native"), online, lambda line: None).packages == 1


def test_an_environment_is_made_where_another_platforms_uv_runs(tmp_path: Path) -> None:
    """musl's uv runs anywhere: this machine stands in for one with musl, down to the packages, which run anywhere, too."""
    here = station(tmp_path)
    built = build(here, wanted("six"), Places(False, {MUSL: ["dc1/b"]}, frozenset({MUSL})), lambda line: None)
    there = replace(here, root=str(tmp_path / "there"), elsewhere=True, pushes=True, platform=MUSL)
    python = there.ensure(here.locks.read(built.lock), lambda line: None)

    assert subprocess.run([python, "-c", "import six"], check=False).returncode == 0
    assert [p.name.split("-")[1:3] for p in (tmp_path / "there" / "uv").glob("linux-*")] == [["x86_64", "musl"]]
    assert Path(python).parent.parent.name in keys_of(here.locks.read(built.lock))


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "error: Request failed\n  cause: tcp connect error\n  cause: Connection refused (os error 111)",
            "did not reach",
        ),
        ("error: No solution found when resolving dependencies", "Change the app's requirements."),
        ("error: something new", "or make sure that the package index is reachable"),
    ],
)
def test_requirements_are_not_to_blame_where_no_index_was_reached(said: str, advice: str) -> None:
    """Seen red with `Change the app's requirements` for a control plane without a network."""
    assert advice in advice_on(said)
