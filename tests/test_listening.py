"""Listening sockets: which addresses a configured host stands for, and what an address says that cannot be had."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tracker.errors import ConfigurationError, HeldByAnother, TrackerError
from tracker.listening import listen

IPV4, IPV6 = "127.0.0.1", "::1"


@pytest.fixture
def listener(free_port: int) -> Iterator[Callable[[str], socket.socket]]:
    """Listens at a host and the free port, until the end of the test."""
    with ExitStack() as stack:
        yield lambda host: stack.enter_context(listen("http", host, free_port, 5))


def reached(port: int) -> set[str]:
    """The loopback addresses at which the port answers."""
    found = set()
    for address in (IPV4, IPV6):
        try:
            socket.create_connection((address, port), timeout=5).close()
        except ConnectionRefusedError:
            continue
        found.add(address)
    return found


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("*", {IPV4, IPV6}),
        ("0.0.0.0", {IPV4}),
        ("::", {IPV6}),
        (IPV4, {IPV4}),
        (IPV6, {IPV6}),
        ("localhost", {IPV4}),
    ],
)
def test_a_host_stands_for_its_addresses_and_no_others(
    listener: Callable[[str], socket.socket], free_port: int, host: str, addresses: set[str]
) -> None:
    listener(host)
    assert reached(free_port) == addresses


def names(monkeypatch: pytest.MonkeyPatch, *found: tuple[socket.AddressFamily, str]) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_of_a_name_with_several_addresses_the_first_ipv4_address_is_taken(
    monkeypatch: pytest.MonkeyPatch, listener: Callable[[str], socket.socket]
) -> None:
    names(monkeypatch, (socket.AF_INET6, IPV6), (socket.AF_INET, "127.0.0.3"), (socket.AF_INET, IPV4))
    assert listener("pixel.example").getsockname()[0] == "127.0.0.3"


def test_a_name_with_ipv6_addresses_alone_is_one_of_them(
    monkeypatch: pytest.MonkeyPatch, listener: Callable[[str], socket.socket]
) -> None:
    names(monkeypatch, (socket.AF_INET6, IPV6))
    assert listener("pixel.example").getsockname()[0] == IPV6


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_host_without_ipv6_is_listened_to_by_ipv4(
    monkeypatch: pytest.MonkeyPatch, listener: Callable[[str], socket.socket], free_port: int, number: int
) -> None:
    create = socket.create_server

    def without_ipv6(address: Any, *, family: int, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, os.strerror(number))
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    listener("*")
    assert reached(free_port) == {IPV4}


def test_a_system_built_without_ipv6_is_listened_to_by_ipv4(
    monkeypatch: pytest.MonkeyPatch, listener: Callable[[str], socket.socket], free_port: int
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listener("*")
    assert reached(free_port) == {IPV4}


@pytest.mark.parametrize("held", ["*", "0.0.0.0", "::", IPV4, IPV6])
def test_an_address_in_use_is_held_by_another(
    listener: Callable[[str], socket.socket], free_port: int, held: str
) -> None:
    listener(held)
    with pytest.raises(
        HeldByAnother,
        match=rf"^admin\.port: expected a free port, cannot listen on \*:{free_port}: Address already in use",
    ):
        listen("admin", "*", free_port, 5)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "256.0.0.1", "a..b", "a" * 64 + ".example", "*.example"])
def test_a_host_that_is_none_of_ours_is_a_configuration_error_of_its_key(free_port: int, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^http\.host: expected ") as raised:
        listen("http", host, free_port, 5)
    assert host in str(raised.value)


def test_a_port_that_needs_a_privilege_is_a_configuration_error_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> socket.socket:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(ConfigurationError, match=r"^http\.port: .*cannot listen on \[::1\]:80: Permission denied"):
        listen("http", IPV6, 80, 5)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_a_system_that_has_no_socket_to_give_is_no_configuration_error(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any, **__: Any) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(TrackerError, match=f"cannot listen on .*: {os.strerror(number)}") as raised:
        listen("http", "*", 80, 5)
    assert type(raised.value) is TrackerError


def test_a_name_server_that_does_not_answer_is_no_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unanswered)
    with pytest.raises(TrackerError, match=r"cannot listen on pixel\.example:80: Temporary failure") as raised:
        listen("http", "pixel.example", 80, 5)
    assert type(raised.value) is TrackerError
