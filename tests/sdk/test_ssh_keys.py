"""Host keys in every situation: who may be talked to, and that nobody else is told anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import FalplanError
from falplan.sdk.ssh.connect import connect
from falplan.sdk.ssh.keys import known_keys
from falplan_providers.ssh.options import hosts_of
from tests.lab.keys import SITUATIONS, Situation, check_refused, packets_to, prepared
from tests.lab.loopback import CREDENTIALS, LoopbackHost, fingerprint_of, make_key

Make = Callable[..., LoopbackHost]


@pytest.mark.needs("openssh-server")
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.name.replace(" ", "-"))
def test_whom_a_key_lets_us_talk_to(
    make_host: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, situation: Situation
) -> None:
    """Seen red with a reader of known_hosts that ended at a line with a marker, and with a login that is begun before the key is seen."""
    host, bastion, options, known = prepared(situation, make_host)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(known + "\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    key = str(host.client_key)
    region: dict[str, Any] = {"user": "root", "identity_file": key, "hosts": {"a": options}}

    def go() -> None:
        target = hosts_of("lab", region)["a"].target
        if target.via is not None:  # a person's own key is not named in the spec
            target = replace(target, via=replace(target.via, identity_files=(key,)))
        connect(target, CREDENTIALS).close()

    if situation.says:
        with pytest.raises(FalplanError) as caught:
            go()
        assert situation.says in str(caught.value)
        check_refused(situation, str(caught.value), host, bastion)
    else:
        go()
        assert 50 in packets_to(host)  # the very packet that nobody may get who is refused


def test_a_key_that_is_revoked_for_anyone_is_known_of_nobody(tmp_path: Path) -> None:
    """Seen red with paramiko's own reader: a line with a marker ended every command."""
    first, second = make_key(tmp_path / "first"), make_key(tmp_path / "second")
    path = tmp_path / "known_hosts"
    lines = [
        f"one {first}",
        "one ssh-ed25519 AAAA",
        "nonsense",
        f"@revoked two {first}",
        "@revoked x",
        f"one,two {second}",
    ]
    path.write_text("\n".join(lines))

    assert known_keys(path, "one") == known_keys(path, "two") == {fingerprint_of(second)}
    assert known_keys(tmp_path / "none", "one") == set()
