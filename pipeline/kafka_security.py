"""How the clients of Kafka encrypt their connection and log in: settings of kafka-python and Spark.

The user name and the password are in a file, so that no environment variable, log line or status
file shows them.
"""

from typing import Any, NamedTuple

from pipeline import setting_files
from pipeline.errors import OperationalError
from pipeline.settings import Settings

_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


class Credentials(NamedTuple):
    """A user of Kafka."""

    user: str
    password: str


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the options of every kafka-python client; empty for a plain connection.

    Raises:
        OperationalError: a file of the settings is missing or has no credentials.
    """
    options: dict[str, Any] = {}
    if settings.kafka_security_protocol != "PLAINTEXT":
        options["security_protocol"] = settings.kafka_security_protocol
    if authority := _certificate_authority(settings):
        options["ssl_cafile"] = authority
    if credentials := _credentials(settings):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = credentials.user
        options["sasl_plain_password"] = credentials.password
    return options


def spark_options(settings: Settings) -> dict[str, str]:
    """Return the same as `client_options` for Spark's Kafka source.

    Raises:
        OperationalError: a file of the settings is missing or has no credentials.
    """
    options: dict[str, str] = {}
    if settings.kafka_security_protocol != "PLAINTEXT":
        options["kafka.security.protocol"] = settings.kafka_security_protocol
    if authority := _certificate_authority(settings):
        options["kafka.ssl.truststore.type"] = "PEM"
        options["kafka.ssl.truststore.location"] = authority
    if credentials := _credentials(settings):
        user, password = (_quoted(text) for text in credentials)
        module = _LOGIN_MODULES[settings.kafka_sasl_mechanism]
        options["kafka.sasl.mechanism"] = settings.kafka_sasl_mechanism
        options["kafka.sasl.jaas.config"] = (
            f"{module} required username={user} password={password};"
        )
    return options


def _certificate_authority(settings: Settings) -> str | None:
    if not settings.kafka_security_protocol.endswith("SSL") or settings.kafka_ca_file is None:
        return None
    path = settings.kafka_ca_file
    if "-----BEGIN CERTIFICATE-----" not in setting_files.read_text("KAFKA_CA_FILE", path):
        raise OperationalError(
            f"KAFKA_CA_FILE={path} has no certificate: it must be in PEM format, with the line "
            "-----BEGIN CERTIFICATE-----"
        )
    return str(path)


def _credentials(settings: Settings) -> Credentials | None:
    if not settings.kafka_security_protocol.startswith("SASL"):
        return None
    path = settings.kafka_credentials_file
    if path is None:
        raise OperationalError(
            "KAFKA_CREDENTIALS_FILE is not set. Set it to the path of a file with a user name and "
            f"a password. KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs them"
        )
    lines = setting_files.read_text("KAFKA_CREDENTIALS_FILE", path).splitlines()
    if len(lines) != len(Credentials._fields) or not all(lines):
        raise OperationalError(
            f"KAFKA_CREDENTIALS_FILE={path} must have two lines: the user name, then the password"
        )
    return Credentials(*lines)


def _quoted(text: str) -> str:
    """Return a quoted value of a JAAS configuration."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
