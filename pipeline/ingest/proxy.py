"""The HTTP proxy of the environment, and which hosts are reached without it."""

import ipaddress
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, and the environment variable that names it."""

    variable: str
    host: str
    port: int
    #: User name and password; None if the proxy needs none.
    login: tuple[str, str] | None

    def __str__(self) -> str:
        """Return the address without the password."""
        return f"proxy {self.host}:{self.port} ({self.variable})"

    def failure(self, cause: str) -> str:
        """Return the error message for a proxy that cannot be reached or that refuses."""
        return f"the proxy failed. Check {self.variable}. Cause: {cause} ({self.host}:{self.port})"


def proxy_for(host: str, *, secure: bool) -> Proxy | None:
    """Return the proxy through which a host is reached; None for a direct connection.

    The host of a replay is always reached directly: a proxy cannot connect to it.

    Args:
        host: the host to connect to.
        secure: whether the connection uses TLS.

    Raises:
        ValueError: the environment variable is not the address of an HTTP proxy.
    """
    if is_local(host) or urllib.request.proxy_bypass(host):
        return None
    kind = "https" if secure else "http"
    address = urllib.request.getproxies_environment().get(kind)
    return _parse(f"{kind}_proxy", address) if address else None


def through(proxy: Proxy | None) -> str:
    """Return the end of a text about an address: the proxy through which it is reached, or ""."""
    return f" through the {proxy}" if proxy else ""


def is_local(host: str) -> bool:
    """Return whether a host is this machine, or has a name without a domain, as containers have."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _parse(variable: str, address: str) -> Proxy:
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise ValueError(
            f"{variable} is not the address of an HTTP proxy, http://host:port. Correct or unset it"
        )
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Proxy(variable, parts.hostname, port, login)
