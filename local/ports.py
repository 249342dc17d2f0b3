"""Ports on 127.0.0.1."""

import contextlib
import socket
from random import SystemRandom

#: The system uses no port in this range for outgoing connections: Linux uses ports from 32768 on,
#: other systems use ports from 49152 on. So a server can listen on its port later, and again after
#: it was killed.
_PORTS = range(10_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Return different random ports that no process uses. No seed determines them."""
    random, ports = SystemRandom(), set[int]()
    while len(ports) < count:
        port = random.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


def free_port() -> int:
    """Return a random port that no process uses."""
    return free_ports(1)[0]


def listens(port: int) -> bool:
    """Return whether a process listens on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
