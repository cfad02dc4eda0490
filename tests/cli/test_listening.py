"""The port that a control plane keeps, and what it says when somebody else has it."""

from __future__ import annotations

import socket
import threading

import pytest

from falplan.cli.listening import listen
from falplan.core.errors import FalplanError
from falplan.stores.home import GatewaySettings


def test_a_port_is_chosen_once_and_listened_on_again() -> None:
    with listen(GatewaySettings()) as first:
        port = first.getsockname()[1]
    with listen(GatewaySettings(port=port)) as again:
        assert again.getsockname()[1] == port


def test_a_port_that_somebody_has_for_a_moment_is_waited_for() -> None:
    """Seen red without a wait: a control plane that came back while another program had its port did not start."""
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    begun = threading.Event()

    def release() -> None:
        begun.wait()
        other.close()

    thread = threading.Thread(target=release)
    thread.start()
    begun.set()
    with listen(GatewaySettings(port=port)) as found:
        assert found.getsockname()[1] == port
    thread.join()


def test_a_port_that_stays_taken_is_named_with_what_helps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(FalplanError) as refused:
        listen(GatewaySettings(port=other.getsockname()[1]), patience=0.0)
    assert "ss -ltnp" in refused.value.detail and "gateway: {port" in refused.value.detail


def test_an_address_of_no_interface_is_not_waited_for() -> None:
    with pytest.raises(FalplanError, match="203"):
        listen(GatewaySettings(port=20_000, listen="203.0.113.7"))
