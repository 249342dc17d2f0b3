"""Valid addresses in settings: of the exchange, of Kafka's brokers and of the store. Pure."""

import re
from ipaddress import IPv6Address
from urllib.parse import unquote, urlsplit

#: The name or the IPv4 address of a machine, and a port from 1 to 65535.
HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
PORT = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_POSTGRESQL_PORT = 5432
_POSTGRESQL = re.compile(
    r"postgresql://(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,62})(?P<password>:.*)?@"
    rf"(?P<host>[^@/]+?)(:(?P<port>{PORT}))?/"
    r"(?P<database>[A-Za-z0-9_][A-Za-z0-9_.-]{0,62})"
    r"(?P<parameters>\?.*)?",
    re.ASCII | re.DOTALL,
)
#: The modes in which both clients of PostgreSQL verify the certificate of the server. In the mode
#: require, libpq verifies it if there is a file of certificates, and the JDBC driver never does.
_VERIFYING_MODES = ("verify-ca", "verify-full")
_TLS_MODES = ("disable", "require", *_VERIFYING_MODES)


def broker_addresses(text: str) -> str:
    """Return the addresses without spaces."""
    addresses = [address.strip() for address in text.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not (_is_host(host) and re.fullmatch(PORT, port)):
            raise ValueError(
                "must be host:port with a port from 1 to 65535, such as localhost:9092; commas "
                "separate several addresses"
            )
    return ",".join(addresses)


def websocket_address(text: str) -> str:
    """Check the address of a WebSocket server and return it.

    Raises:
        ValueError: the text is no such address.
    """
    return _address(text, ("ws", "wss"), "ws://127.0.0.1:8765")


def rest_address(text: str) -> str:
    return _address(text, ("http", "https"), "https://api.exchange.coinbase.com")


def _address(text: str, schemes: tuple[str, str], example: str) -> str:
    """Check that a text is an address with one of the schemes, a host and a valid port."""
    scheme, separator, _ = text.partition("://")
    if scheme not in schemes or not separator:
        raise ValueError(f"must begin with {schemes[0]}:// or {schemes[1]}://, such as {example}")
    if re.search(r"[^\x21-\x7e]", text):
        raise ValueError("must not contain spaces, control characters or letters beyond ASCII")
    try:
        parts = urlsplit(text)
    except ValueError:  # [ without ]
        parts = urlsplit("")
    try:
        port = parts.port
    except ValueError:  # not a number from 0 to 65535
        port = 0
    if port == 0:
        raise ValueError(f"must have no port or a port from 1 to 65535, such as {example}")
    name = parts.netloc.rpartition("@")[2].removesuffix(f":{port}").removesuffix(":")
    if not _is_host(name):
        raise ValueError(f"must have a host, such as {example}")
    if "@" in parts.netloc or "#" in text:
        raise ValueError("must not contain a user name, a password or a '#'")
    return text


def store_address(text: str) -> str:
    """Return `sqlite`, or the address of a PostgreSQL database with its port."""
    if text == "sqlite":
        return text
    match = _POSTGRESQL.fullmatch(text)
    if match is None or not _is_host(match["host"]):
        raise ValueError("must be sqlite or postgresql://user@host:port/database")
    if match["password"] is not None:
        raise ValueError("must not contain a password: put it into a file, STORE_PASSWORD_FILE")
    port = match["port"] or _POSTGRESQL_PORT
    parameters = match["parameters"] or ""
    if parameters:
        _check_tls(tls_parameters(parameters[1:]))
    return f"postgresql://{match['user']}@{match['host']}:{port}/{match['database']}{parameters}"


def tls_parameters(query: str) -> list[tuple[str, str]]:
    """Return the names and values of the parameters in STORE_URL, as libpq reads them."""
    pairs = (pair.partition("=") for pair in query.split("&")) if query else ()
    return [(name, unquote(value)) for name, _, value in pairs]


def _check_tls(given: list[tuple[str, str]]) -> None:
    """Check the parameters of STORE_URL.

    Raises:
        ValueError: a parameter is unknown or has another meaning in one of the clients.
    """
    parameters = dict(given)
    if parameters.keys() - {"sslmode", "sslrootcert"} or len(parameters) < len(given):
        raise ValueError("must have only the parameters sslmode and sslrootcert, each at most once")
    mode, file = parameters.get("sslmode"), parameters.get("sslrootcert")
    if mode not in _TLS_MODES:
        raise ValueError("must have sslmode=disable, require, verify-ca or verify-full")
    if mode in _VERIFYING_MODES and not re.fullmatch(r"/[^\x00-\x1f\x7f]+", file or ""):
        raise ValueError(f"must have sslrootcert=/path/of/a/file with sslmode={mode}")
    if mode not in _VERIFYING_MODES and file is not None:
        raise ValueError(f"must have no sslrootcert with sslmode={mode}")


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        try:
            IPv6Address(text[1:-1])
        except ValueError:
            return False
        return True
    return re.fullmatch(HOST, text) is not None
