"""A real PostgreSQL server on this machine, in a directory of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from local.ports import free_port, listens
from tests.conftest import require, wait_until

USER, PASSWORD = "pipeline", "not-in-any-log: ünïcode '\\"
#: Debian does not put these programs on the PATH.
_FOLDERS = (*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr/local/pgsql").glob("bin"))


def program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL; None if it is not installed."""
    places = [os.environ.get("PATH", os.defpath), *map(str, sorted(_FOLDERS, reverse=True))]
    return shutil.which(name, path=os.pathsep.join(places))


class PostgresqlServer:
    """A server with one user, who has a password, and any number of databases.

    It has a certificate for 127.0.0.1 of an authority of its own.
    """

    def __init__(self) -> None:
        for name in ("initdb", "postgres"):
            require(f"{name} (Debian: apt-get install postgresql)", program(name))
        # PostgreSQL refuses to run as root.
        self._user = _other_user() if os.getuid() == 0 else None
        # Pytest's directories are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.password_file = self.folder / "password"
        self.password_file.write_text(PASSWORD + "\n", encoding="utf-8")
        authority, other = trustme.CA(), trustme.CA()
        #: The certificate of the authority of this server, and of another one.
        self.authority_file, self.other_authority_file = (
            self._pem(name, one.cert_pem.bytes())
            for name, one in (("authority.pem", authority), ("other.pem", other))
        )
        certificate = authority.issue_cert("127.0.0.1")
        self._certificate = self._pem("server.pem", certificate.cert_chain_pems[0].bytes())
        self._key = self._pem("server.key", certificate.private_key_pem.bytes())
        if self._user is not None:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, self._user, -1)
        self.port = free_port()
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "--pwfile", str(self.password_file))

    def _pem(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path

    def _run(self, name: str, *arguments: str) -> None:
        options = [f"--username={USER}", "--auth=scram-sha-256", "--encoding=UTF8"]
        options += ["--no-locale", "--no-sync"]
        command = [str(program(name)), *options, *arguments, "-D", str(self.folder / "data")]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd="/")

    def start(self) -> None:
        """Start the server, and wait until it accepts connections or recovers."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "ssl": "on",
            "ssl_cert_file": self._certificate,
            "ssl_key_file": self._key,
            "fsync": "off",  # the kernel keeps what a killed server has written
            "timezone": "Asia/Kolkata",  # results must not depend on it
            "extra_float_digits": -5,
        }
        command = [str(program("postgres")), "-D", str(self.folder / "data")]
        for option, value in options.items():
            command += ["-c", f"{option}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd="/"
            )
        wait_until(lambda: listens(self.port), 30, "the start of PostgreSQL")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server. SIGINT ends all connections; SIGKILL loses what is not on the disk."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def verified(self, authority_file: Path | None = None) -> str:
        """Return the parameters of a URL that verify the certificate of this server."""
        return f"?sslmode=verify-full&sslrootcert={authority_file or self.authority_file}"

    def accepts_connections(self) -> bool:
        """Return whether a client can log in.

        The port accepts TCP connections a moment earlier, while the server is still starting.
        """
        import psycopg

        try:
            psycopg.connect(self.url(), password=PASSWORD).close()
        except psycopg.OperationalError:
            return False
        return True

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        import psycopg

        self._databases += 1
        name = f"prices_{self._databases}"
        with psycopg.connect(self.url(), password=PASSWORD, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _other_user() -> int:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    require("a user that is not root", present=False)
    return -1


@contextmanager
def running_server() -> Iterator[PostgresqlServer]:
    """Yield a running server, and remove it at the end."""
    server = PostgresqlServer()
    try:
        server.start()
        wait_until(server.accepts_connections, 60, "a connection to PostgreSQL")
        yield server
    finally:
        server.remove()
