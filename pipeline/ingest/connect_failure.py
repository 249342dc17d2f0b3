"""Why a connection to the exchange failed, what to do, and which errors are retried slowly. Pure.

The WebSocket feed and the REST interface use the same rules.
"""

import errno
import http.client
import re
import socket
import ssl

from websocket import (
    WebSocketBadStatusException,
    WebSocketConnectionClosedException,
    WebSocketException,
)

from pipeline.errors import sentence

#: Statuses of HTTP after which a new attempt can succeed. 520 to 530 are those of Cloudflare.
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})
#: Errors of a network that is down.
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
#: What to do about a certificate, by the code of OpenSSL.
_CERTIFICATE_ADVICE = {
    **dict.fromkeys((9, 10), "Check this machine's clock"),  # not yet valid, expired
    **dict.fromkeys((18, 19, 20, 21), "Set SSL_CERT_FILE to trust it"),  # unknown issuer
}
#: The beginning of an address with TLS, by the setting that holds the address. Default: wss://.
_TLS_SCHEMES = {"FEED_REST_URL": "https://"}


def connect_failure(error: Exception, setting: str) -> tuple[str, bool]:
    """Return why a connection failed with the action, and whether only a person can correct it.

    Args:
        error: the error of the library.
        setting: the setting or the option that holds the address, such as FEED_REST_URL.
    """
    if isinstance(error, WebSocketBadStatusException):
        status = reason(error).removeprefix("Handshake status ")
        return status_failure(error.status_code, status, setting)
    if isinstance(error, ssl.SSLError):
        return _tls_failure(error, setting)
    if text := _network_failure(error, setting):
        return text, False
    return reason(error), isinstance(error, ValueError)


def _network_failure(error: Exception, setting: str) -> str | None:
    """Return why a server gave no answer or an invalid one, with the action; None if unknown."""
    if isinstance(error, socket.gaierror):
        unknown = error.errno == socket.EAI_NONAME
        problem = "the host is unknown" if unknown else "host name not resolved"
        return f"{problem}. Check {setting} and the network"
    if isinstance(error, ConnectionRefusedError):
        return f"Connection refused. Check {setting}, and that its server runs"
    is_unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    if is_unreachable or isinstance(
        error, TimeoutError | ConnectionError | WebSocketConnectionClosedException
    ):
        return f"{reason(error)}. Check {setting} and the network"
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended within the answer. Check {setting} and the network"
    if isinstance(error, http.client.HTTPException):
        return f"the answer is not HTTP. Check {setting}"
    return f"{reason(error)}. Check {setting}" if isinstance(error, WebSocketException) else None


def status_failure(status: int, text: str, setting: str) -> tuple[str, bool]:
    """Return why an HTTP status is a failure, and whether only a person can correct it.

    Args:
        status: the status.
        text: the status and its reason, such as `404 Not Found`.
        setting: the setting or the option that holds the address.
    """
    lasting = status not in _RETRIED_STATUSES
    return f"HTTP status {text.rstrip(' .')}{f'. Check {setting}' if lasting else ''}", lasting


def _tls_failure(error: ssl.SSLError, setting: str) -> tuple[str, bool]:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _CERTIFICATE_ADVICE.get(error.verify_code, f"Check {setting}")
        return f"invalid TLS certificate. {advice} ({error.verify_message.rstrip('.')})", True
    scheme = _TLS_SCHEMES.get(setting, "wss://")
    if error.reason == "WRONG_VERSION_NUMBER":
        return f"the server does not use TLS. Check {scheme} in {setting}", True
    why = (error.reason or "unknown reason").replace("_", " ").lower()
    return f"the TLS handshake failed. Check {scheme} in {setting} ({why})", False


def reason(error: Exception) -> str:
    """Return the text of the library without error numbers and without HTTP headers."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", sentence(error)).partition(" -+-+-")[0]
    return text.rstrip(".")
