"""What an error of PostgreSQL means: whether a retry can end it, and what a person can do.

`pipeline.errors` uses it. It imports no client: SQLSTATE, the names of classes and parts of the
text are enough, and importing the client takes a tenth of a second.
"""

from collections.abc import Mapping

_LOGIN = (
    "PostgreSQL refuses the login. Check the user in STORE_URL and the password in "
    "STORE_PASSWORD_FILE"
)
_DAMAGED = (
    "PostgreSQL reports damaged data. Restore a backup, or set STORE_URL to an empty database: the "
    "consumer fills it from Kafka"
)
_CERTIFICATE = (
    "The certificate of PostgreSQL does not match sslrootcert or the host in STORE_URL. Correct "
    "STORE_URL, or the certificate of the server"
)
#: What a person can do about an error that a retry cannot end, by its SQLSTATE. The error of a
#: refused connection has no SQLSTATE, so a part of its text identifies it.
_REFUSALS = {
    **dict.fromkeys(("certificate verify failed", "does not match host name"), _CERTIFICATE),
    "root certificate file": "Cannot read the certificates to trust. Correct sslrootcert in "
    "STORE_URL",
    "server does not support SSL": "PostgreSQL does not accept TLS. Set ssl = on in "
    "postgresql.conf of the server, or correct sslmode in STORE_URL",
    **dict.fromkeys(("28000", "28P01", "authentication failed", "no password supplied"), _LOGIN),
    **dict.fromkeys(('role "', "is not permitted to log in"), _LOGIN),
    "pg_hba.conf": "PostgreSQL refuses this client. Allow it in pg_hba.conf of the server",
    **dict.fromkeys(
        ("3D000", "does not exist"),
        "PostgreSQL has no such database. Create it, or correct STORE_URL",
    ),
    **dict.fromkeys(
        ("42501", "permission denied"),
        "PostgreSQL refuses access. Make the user in STORE_URL the owner of the database",
    ),
    **dict.fromkeys(("XX001", "XX002"), _DAMAGED),
    "42P07": "The database has tables of another program. Set STORE_URL to an empty database",
}
#: What a person can do about an error that a retry can end.
_TEMPORARY_ACTIONS = {
    "53100": "The disk of PostgreSQL is full. Free space on it",
    "53300": "PostgreSQL has too many connections. Close some, or raise max_connections",
    "55P03": "Another program has locked the database. Stop that program",
}
#: The classes of SQLSTATE that a retry can end: connection, conflict of transactions, resources,
#: lock, operator, system, and a server that is read-only during a switch-over.
_TEMPORARY = ("08", "40", "53", "55", "57", "58", "25006")


def is_of_client(error: BaseException) -> bool:
    """Return whether the client of PostgreSQL raised this."""
    return type(error).__module__.partition(".")[0] == "psycopg"


def is_refusal(error: BaseException) -> bool:
    """Return whether a person has to act: the server refuses this client, or reports damage."""
    return _action(error, _REFUSALS) is not None


def is_temporary(error: BaseException) -> bool:
    """Return whether a retry can end an error that is no refusal."""
    state = getattr(error, "sqlstate", None)
    if state is None:  # the client itself: no connection, or a wrong call
        return _is_operational(error)
    return bool(state.startswith(_TEMPORARY))


def action_of(error: BaseException) -> str | None:
    """Return what a person can do about an error; None if it is not in the tables."""
    return _action(error, _REFUSALS | _TEMPORARY_ACTIONS)


def retried(error: BaseException) -> str:
    """Return what to check if a temporary error without an action of its own lasts."""
    state = getattr(error, "sqlstate", None)
    if state is None or state.startswith(("08", "57")):
        return "PostgreSQL does not answer. Check that its server runs, and STORE_URL"
    return "PostgreSQL reports an error. If this lasts, read its log"


def _action(error: BaseException, actions: Mapping[str, str]) -> str | None:
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return actions.get(state)
    if not _is_operational(error):
        return None
    return next((action for part, action in actions.items() if part in str(error)), None)


def _is_operational(error: BaseException) -> bool:
    return "OperationalError" in (each.__name__ for each in type(error).__mro__)
