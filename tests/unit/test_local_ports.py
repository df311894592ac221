"""Which ports the parts get."""

from __future__ import annotations

import socket

import pytest

from services.local.errors import PortInUse
from services.local.ports import PortPicker, is_free


def test_every_port_is_given_once() -> None:
    picker = PortPicker()
    ports = [picker.pick("it") for _ in range(50)]
    assert len(set(ports)) == 50
    with pytest.raises(PortInUse, match=str(ports[0])):
        picker.pick("another", ports[0])


def test_a_port_in_use_is_refused_by_number_and_part() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port, "127.0.0.1")
        with pytest.raises(PortInUse, match=f"port {port} for the gateway is in use"):
            PortPicker().pick("the gateway", port)
    assert is_free(port, "127.0.0.1")


def test_a_port_that_several_servers_may_share_is_in_use_all_the_same() -> None:
    # as gRPC servers listen by default: a second one would silently get half of the calls
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1], "127.0.0.1")
