"""Connecting to a host with several addresses, with real sockets."""

import socket
import time
from typing import Any

import pytest

from local.ports import free_port
from pipeline.ingest.transport import Waiter, connect

#: An address of a family that no kernel has, as IPv6 on a kernel without it.
WITHOUT_FAMILY = (1000, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", 80, 0, 0))


def address(port: int) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))


def connect_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> None:
    """Connect to a host that has these addresses, and close the connection."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: list(addresses))
    waiter = Waiter(lambda: True)
    waiter.allow(5)
    connect("exchange.example", 80, waiter).close()


def test_an_address_of_a_family_that_the_kernel_lacks_does_not_prevent_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect_to(monkeypatch, WITHOUT_FAMILY, address(server.getsockname()[1]))
        server.accept()[0].close()


@pytest.mark.parametrize("is_first", [True, False])
def test_the_reported_failure_is_the_one_of_an_address_that_the_kernel_can_use(
    monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    refused = address(free_port())
    addresses = (refused, WITHOUT_FAMILY) if is_first else (WITHOUT_FAMILY, refused)
    with pytest.raises(ConnectionRefusedError):
        connect_to(monkeypatch, *addresses)


def test_a_host_with_only_addresses_that_the_kernel_lacks_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(OSError, match="Address family not supported"):
        connect_to(monkeypatch, WITHOUT_FAMILY, WITHOUT_FAMILY)


def test_the_error_shows_the_limit_rounded_to_a_tenth_of_a_second() -> None:
    waiter = Waiter(lambda: True)
    waiter.allow(0.20123)
    time.sleep(0.21)
    with pytest.raises(TimeoutError, match=r"^no complete answer within 0\.2 s$"):
        waiter.check()
