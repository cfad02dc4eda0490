"""A region of SSH hosts, with real sshds: what its options mean, what it leaves on a host, and that it takes all of that away."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import FalplanError
from falplan.sdk.resources import Declared, Failed, Found, Mark, Standing
from falplan.sdk.scripts import SCRIPTS
from falplan.sdk.ssh import HostKeyRefused, SshShell
from falplan.sdk.testing.conformance import check_provider, check_resources
from falplan.sdk.values import Direct
from falplan_providers.ssh import SshRegion, provider
from falplan_providers.ssh.markers import Marker, Site
from tests.lab.loopback import LoopbackHost, fingerprint_of, make_key

pytestmark = pytest.mark.needs("openssh-server")
Make = Callable[..., LoopbackHost]
CONTROL = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHH2S5Vb+Zp8SNRyUBDvHLO2dJNu6sgPQjRmwhgRdGWp control"


def region_of(*hosts: LoopbackHost, **more: Any) -> SshRegion:
    bodies: dict[str, Any] = {
        h.folder.name: {
            "address": h.address,
            "port": h.port,
            "host_key": list(h.keys.values()),
            "user": "root",
            "identity_file": str(h.client_key),
        }
        for h in hosts
    }
    found = provider("lab", {"hosts": bodies, **more})
    assert isinstance(found, SshRegion)
    return found


def mark_of(name: str, **more: str) -> Mark:
    return Mark("mine", f"host.lab.{name}", **{"operation": "op-1", **more})


def silent(line: str) -> None:
    """Nobody wants to see progress."""


def files_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder, as it is compared before and after."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in sorted(folder.rglob("*"))
    }


def test_what_a_host_says_of_the_way_to_its_runners_goes_before_what_its_region_says() -> None:
    hosts: dict[str, Any] = {
        "a": {"address": "10.0.0.1"},
        "b": {"address": "10.0.0.2", "direct_ports": "21000", "direct_address": "b.example"},
        "c": {"reach": "ssh"},
        "d": {},
    }
    region = provider("lab", {"reach": "direct", "direct_ports": "22000-22999", "hosts": hosts})
    assert isinstance(region, SshRegion)

    assert {name: host.direct for name, host in region.hosts.items()} == {
        "a": Direct("10.0.0.1", (22_000, 22_999)),
        "b": Direct("b.example", (21_000, 21_000)),
        "c": None,
        "d": Direct("d", (22_000, 22_999)),
    }
    with pytest.raises(FalplanError, match="Say `direct_address`"):
        provider("lab", {"reach": "direct", "jump": "bastion", "hosts": {"a": {}}})


def test_the_ssh_provider_conforms(make_host: Make) -> None:
    region = region_of(make_host("b"), make_host("a"))
    check_provider(region)

    assert [m.id for m in region.machines()] == ["lab/a", "lab/b"]
    region.close()


def test_hosts_as_resources_conform(make_host: Make) -> None:
    host = make_host("a")
    region = region_of(host)
    [wanted] = region.declared()
    [changed] = region_of(host, reserve={"vcpu": 1}).declared()
    before = files_below(host.folder / "home")

    def stop(found: Found) -> None:
        (host.folder / "home" / ".ssh" / "authorized_keys").unlink()

    region = WithAccess(region.region, region.hosts, region.options)
    check_resources(region, wanted, changed, stop=stop)

    assert files_below(host.folder / "home") == before
    region.close()


class WithAccess(SshRegion):
    """Every mark of the suite brings a control plane's key: without one there is nothing that could be lost."""

    def create(self, wanted: Declared, mark: Mark, **more: Any) -> Found:
        return SshRegion.create(self, wanted, replace(mark, access=CONTROL), **more)

    def update(self, wanted: Declared, mark: Mark, identity: str, **more: Any) -> Found:
        return SshRegion.update(self, wanted, replace(mark, access=CONTROL), identity, **more)


def test_the_control_planes_key_is_installed_with_the_host_and_removed_with_it(make_host: Make, tmp_path: Path) -> None:
    host = make_host("a")
    ssh = host.folder / "home" / ".ssh"
    ssh.mkdir(mode=0o700)
    mine = "ssh-ed25519 AAAA somebody else's # without a newline"
    (ssh / "authorized_keys").write_text(mine)
    (ssh / "authorized_keys").chmod(0o640)
    control = make_key(tmp_path / "control")
    region = region_of(host)
    [wanted] = region.declared()
    found = region.create(wanted, mark_of("a", access=control), besides="", say=silent)
    lines = (ssh / "authorized_keys").read_text().splitlines()

    inventory = found.outputs["inventory"]
    assert isinstance(inventory, dict) and {"cpu", "ram", "disk", "system", "python"} <= inventory.keys()
    assert lines[0] == mine and lines[1].startswith(
        f"restrict,port-forwarding {' '.join(control.split()[:2])} falplan-"
    )
    assert (ssh / "authorized_keys").stat().st_mode & 0o777 == 0o640
    as_control = provider(
        "lab",
        {"key_file": str(tmp_path / "control"), "hosts": {"a": {**_login(host), "root": found.outputs["folder"]}}},
    )
    [machine] = as_control.machines()
    assert machine.unreachable == "" and machine.folder == found.outputs["folder"]
    region.delete(mark_of("a"), found.identity, say=silent)
    assert (ssh / "authorized_keys").read_text() == mine + "\n"
    assert [p.name for p in (host.folder / "home").iterdir()] == [".ssh"]


def _login(host: LoopbackHost) -> dict[str, Any]:
    return {"address": host.address, "port": host.port, "user": "root", "host_key": list(host.keys.values())}


def test_a_removal_that_was_broken_off_anywhere_in_a_folder_is_carried_on(
    make_host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree is removed in no order: what is left of falplan's scripts then must not be needed any more."""
    host = make_host("a")
    region = region_of(host)
    [wanted] = region.declared()
    found = region.create(wanted, mark_of("a"), besides="", say=silent)
    folder = Path(str(found.outputs["folder"]))
    whole = SshShell.remove
    for version in ("aaa", "bbb"):
        (folder / "tools" / version).mkdir(parents=True)
        for name in SCRIPTS:
            content = resources.files("falplan.runner").joinpath(name).read_bytes()
            (folder / "tools" / version / name).write_bytes(content)

    def broken_off(shell: SshShell, path: str, empty: Sequence[str] = ()) -> None:
        if not path.endswith("/tools"):
            return whole(shell, path, empty)
        (folder / "tools" / "aaa" / "ledger.py").unlink()
        (folder / "tools" / "bbb" / "processes.py").unlink()
        raise FalplanError("The connection was lost")

    monkeypatch.setattr(SshShell, "remove", broken_off)
    with pytest.raises(FalplanError, match="lost"):
        region.delete(mark_of("a"), found.identity, say=silent)
    monkeypatch.undo()
    [still] = region.look("mine", {"host.lab.a": found})
    assert isinstance(still, Found) and still.identity == found.identity
    region.delete(mark_of("a"), found.identity, say=silent)
    assert not folder.exists()
    region.close()


@pytest.mark.parametrize("moment", ["before others are looked for", "after others are looked for"])
@pytest.mark.parametrize("what", ["comes", "leaves"])
def test_of_two_projects_that_come_or_leave_at_once_the_last_one_takes_the_folders_along(
    make_host: Make, monkeypatch: pytest.MonkeyPatch, what: str, moment: str
) -> None:
    """Folders above falplan's are made for whoever is first, and of use to all that are there."""
    host = make_host("a")
    before = files_below(host.folder / "home")
    regions = [region_of(host), region_of(host)]
    [wanted] = regions[0].declared()
    marks = [replace(mark_of("a", access=CONTROL), owner=owner) for owner in ("one", "two")]
    first = regions[0].create(wanted, marks[0], besides="", say=silent) if what == "leaves" else None
    looked = Site.markers

    def other() -> Found:
        monkeypatch.undo()
        if first is None:
            return regions[0].create(wanted, marks[0], besides="", say=silent)
        regions[0].delete(marks[0], first.identity, say=silent)
        return first

    found: list[Found] = []

    def meanwhile(site: Site) -> list[Marker]:
        if moment.startswith("before"):
            found.append(other())
            return looked(site)
        there = looked(site)
        found.append(other())
        return there

    monkeypatch.setattr(Site, "markers", meanwhile)
    second = regions[1].create(wanted, marks[1], besides="", say=silent)
    if what == "comes":
        regions[0].delete(marks[0], found[0].identity, say=silent)
    regions[1].delete(marks[1], second.identity, say=silent)
    for region in regions:
        region.close()
    assert files_below(host.folder / "home") == before


def test_a_host_whose_mark_somebody_took_away_is_still_ours(make_host: Make) -> None:
    """Seen red with one that counted as gone: another was made beside it, and nobody ended what ran in it."""
    host = make_host("a")
    before = files_below(host.folder / "home")
    region = region_of(host)
    [wanted] = region.declared()
    found = region.create(wanted, mark_of("a", access=CONTROL), besides="", say=silent)
    mark = Path(str(found.outputs["folder"])) / "host.json"
    mark.unlink()
    [seen] = region.look("mine", {"host.lab.a": found})
    assert isinstance(seen, Found) and (seen.identity, seen.standing) == (found.identity, Standing.ALTERED)
    assert seen.because == f"its mark, {mark}, is gone" and seen.inputs == found.inputs
    assert region.remains(mark_of("a"), found.identity)
    again = region.update(wanted, mark_of("a", access=CONTROL, operation="op-2"), found.identity, say=silent)
    assert again.identity == found.identity and mark.exists()
    assert [f.standing for f in region.look("mine", {"host.lab.a": again}) if isinstance(f, Found)] == [Standing.UP]

    mark.unlink()
    region.delete(mark_of("a"), found.identity, say=silent)
    region.close()
    left = files_below(host.folder / "home")
    assert {k for k in left if k not in before} <= {".local", ".local/share", ".ssh"}  # who made them stood in the mark


def test_a_mark_whose_folders_others_make_appears_with_them_or_not_at_all(make_host: Make) -> None:
    """Somebody who finds a folder finds the mark as well."""
    host = make_host("a")
    region = region_of(host)
    shell = SshShell(region.hosts["a"].target, region.hosts["a"].credentials)
    home = host.folder / "home"
    above = [str(home / ".local"), str(home / ".local/share")]
    assert shell.write_first(f"{home}/.local/share/mine/host.json", b"1", above)
    assert not shell.write_first(f"{home}/.local/share/other/host.json", b"2", above)
    assert shell.write_first(f"{home}/.local/share/other/host.json", b"2", [])
    assert not shell.write_first(f"{home}/elsewhere/other/host.json", b"2", [])
    assert not shell.write_first(f"{home}/deep/down/other/host.json", b"2", [f"{home}/deep/down"])
    assert {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()} == {
        ".local/share/mine/host.json",
        ".local/share/other/host.json",
    }
    with pytest.raises(NotADirectoryError, match=r"mine/host\.json/below"):
        shell.write_first(
            f"{home}/.local/share/mine/host.json/below/x", b"", [f"{home}/.local/share/mine/host.json/below"]
        )
    shell.close()


@pytest.mark.parametrize("keys", [True, False])
def test_what_somebody_who_died_left_beside_the_keys_goes_with_the_host(
    make_host: Make, tmp_path: Path, keys: bool
) -> None:
    """Seen red with an edit that left the unfinished file of one who was killed over it: the folder of the keys stayed on the host."""
    host = make_host("a")
    region = region_of(host)
    [wanted] = region.declared()
    found = region.create(wanted, mark_of("a", access=make_key(tmp_path / "control")), besides="", say=silent)
    ssh = host.folder / "home" / ".ssh"
    dead = subprocess.Popen(["true"])
    dead.wait()
    (ssh / f".part-{dead.pid}-abcdefgh").touch()
    if not keys:
        (ssh / "authorized_keys").unlink()
    region.delete(mark_of("a"), found.identity, say=silent)

    assert list((host.folder / "home").iterdir()) == []


def test_a_key_that_somebody_took_away_is_told_of_and_brought_back(make_host: Make, tmp_path: Path) -> None:
    host = make_host("a")
    region = region_of(host)
    [wanted] = region.declared()
    mark = mark_of("a", access=make_key(tmp_path / "control"))
    found = region.create(wanted, mark, besides="", say=silent)
    (host.folder / "home" / ".ssh" / "authorized_keys").write_text("")
    [seen] = region.look("mine", {})

    assert seen.standing is Standing.STOPPED and "authorized_keys" in seen.because and seen.version != found.version
    assert region.update(wanted, mark, found.identity, say=silent).standing is Standing.UP


def test_a_host_that_can_not_be_asked_is_unknown_and_the_others_are_seen(make_host: Make) -> None:
    here, gone = make_host("here"), make_host("gone")
    region = region_of(here, gone)
    made = {d.name: region.create(d, mark_of(d.name), besides="", say=silent) for d in region.declared()}
    known = {f.address: f for f in made.values()}
    gone.end()
    region.close()
    seen = {f.address: f for f in region_of(here, gone).look("mine", known)}

    assert seen["host.lab.here"].standing is Standing.UP
    assert seen["host.lab.gone"].standing is Standing.UNKNOWN and "Connection refused" in seen["host.lab.gone"].because
    [there, away] = sorted(region_of(here, gone).machines(), key=lambda m: bool(m.unreachable))
    assert there.inventory.vcpu > 0 and "Connection refused" in away.unreachable


def test_a_host_with_another_key_is_refused_with_both(make_host: Make) -> None:
    host = make_host("a")
    region = region_of(host)
    [wanted] = region.declared()
    region.create(wanted, mark_of("a"), besides="", say=silent)
    old = host.keys["ed25519"]
    host.end()
    host.renew("ed25519")
    host.start()
    with pytest.raises(HostKeyRefused) as caught:
        region.look("mine", {})

    assert old in str(caught.value) and host.keys["ed25519"] in str(caught.value)
    region.close()


def test_a_marker_that_somebody_edited_is_another_setting(make_host: Make) -> None:
    host = make_host("a")
    region = region_of(host, reserve={"vcpu": 1})
    [wanted] = region.declared()
    found = region.create(wanted, mark_of("a"), besides="", say=silent)
    marker = Path(str(found.outputs["folder"])) / "host.json"
    marker.write_text(marker.read_text().replace('"vcpu": 1', '"vcpu": 7'))
    [seen] = region.look("mine", {})

    assert found.inputs["reserve"] == {"vcpu": 1} and seen.inputs["reserve"] == {"vcpu": 7}
    assert seen.version != found.version
    region.close()


def test_an_untrusted_host_is_scanned_and_not_logged_in_to(make_host: Make) -> None:
    host = make_host("a")
    options = {k: v for k, v in _login(host).items() if k != "host_key"}
    region = provider("lab", {"hosts": {"a": {**options, "identity_file": str(host.client_key)}}})
    assert isinstance(region, SshRegion)

    assert region.untrusted() == ["a"] and region.look("mine", {}) == []
    shown = region.scan(["a"])
    assert shown == {"a": host.keys["ed25519"]} and "Accepted" not in host.log
    trusted = region.with_trust({"a": [host.keys["ed25519"]]})
    [wanted] = trusted.declared()
    assert trusted.untrusted() == [] and wanted.inputs["host_key"] == [host.keys["ed25519"]]
    assert trusted.create(wanted, mark_of("a"), besides="", say=silent).standing is Standing.UP
    trusted.close()


def test_what_nobody_ever_logged_in_to_has_nothing_to_remove() -> None:
    """Seen red with a host that never answered: nothing could be destroyed."""
    region = provider("lab", {"hosts": {"a": {"address": "127.0.0.1", "port": 1}}})
    assert isinstance(region, SshRegion)
    region.delete(mark_of("a"), "", say=silent)

    assert not region.remains(mark_of("a"), "")


def test_what_is_not_there_any_more_can_not_be_changed(make_host: Make) -> None:
    region = region_of(make_host("a"))
    [wanted] = region.declared()
    with pytest.raises(Failed, match="installed anew"):
        region.update(wanted, mark_of("a"), "0123456789abcdef", say=silent)
    region.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": {}}, 'Did you mean "hosts"'),
        ({"hosts": ["a"]}, "a mapping of names"),
        ({"hosts": {"a": "10.0.0.1"}}, "regions.lab.hosts.a"),
        ({"hosts": {"a": {"adress": "10.0.0.1"}}}, 'regions.lab.hosts.a.adress.*Did you mean "address"'),
        ({"hosts": {"a": {"host_key": "AAAA"}}}, "regions.lab.hosts.a.host_key"),
        ({"hosts": {"a": {"reserve": {"ram": "much"}}}}, "regions.lab.hosts.a.reserve.ram"),
    ],
)
def test_an_option_without_meaning_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(FalplanError, match=says):
        provider("lab", options)


def test_a_host_says_over_its_region(tmp_path: Path) -> None:
    key = fingerprint_of(make_key(tmp_path / "k"))
    region = provider(
        "lab",
        {
            "user": "ops",
            "reserve": {"vcpu": 1, "ram": 5},
            "hosts": {"a": {"host_key": key}, "b": {"address": "10.0.0.2", "user": "root", "reserve": {"ram": 7}}},
        },
    )
    assert isinstance(region, SshRegion)
    a, b = region.declared()

    assert a.inputs == {"address": "a", "user": "ops", "host_key": [key], "reserve": {"vcpu": 1, "ram": 5}}
    assert b.inputs == {"address": "10.0.0.2", "user": "root", "reserve": {"vcpu": 1, "ram": 7}}
    assert a.home == {"hosts": {"a": {"address": "a", "user": "ops", "host_key": [key]}}}
    assert (a.defaults, b.defaults) == (frozenset({"address"}), frozenset())
