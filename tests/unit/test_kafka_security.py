"""The options of Kafka's clients, and the errors of the files that the settings name."""

from pathlib import Path

import pytest
import trustme

from pipeline import kafka_security
from pipeline.errors import OperationalError
from pipeline.settings import Settings


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


def credentials(folder: Path, text: str) -> Path:
    path = folder / "credentials"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plain_connection_needs_no_options() -> None:
    assert kafka_security.client_options(settings()) == {}
    assert kafka_security.spark_options(settings()) == {}


def test_quotes_and_backslashes_of_a_password_are_escaped_for_java(tmp_path: Path) -> None:
    path = credentials(tmp_path, 'ann\na"b\\c\n')
    given = settings(kafka_security_protocol="SASL_PLAINTEXT", kafka_credentials_file=path)
    assert kafka_security.spark_options(given)["kafka.sasl.jaas.config"] == (
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        r'username="ann" password="a\"b\\c";'
    )
    assert 'a"b\\c' in kafka_security.client_options(given).values()


def test_plain_uses_the_login_module_of_plain(tmp_path: Path) -> None:
    given = settings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_credentials_file=credentials(tmp_path, "ann\nsecret\n"),
    )
    options = kafka_security.spark_options(given)
    assert options["kafka.sasl.jaas.config"].startswith(
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
    )
    assert "kafka.ssl.truststore.location" not in options


@pytest.mark.parametrize("text", ["", "ann\n", "ann\n\n", "\nsecret\n", "ann\nsecret\nmore\n"])
def test_a_credentials_file_without_exactly_two_lines_is_refused_without_its_content(
    tmp_path: Path, text: str
) -> None:
    path = credentials(tmp_path, text)
    given = settings(kafka_security_protocol="SASL_SSL", kafka_credentials_file=path)
    with pytest.raises(OperationalError, match="must have two lines") as caught:
        kafka_security.client_options(given)
    assert "secret" not in str(caught.value)


def test_a_login_without_a_credentials_file_is_refused() -> None:
    with pytest.raises(OperationalError, match="KAFKA_CREDENTIALS_FILE is not set"):
        kafka_security.client_options(settings(kafka_security_protocol="SASL_SSL"))


def test_a_missing_file_is_named_with_its_setting(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    for name, protocol in (
        ("kafka_ca_file", "SSL"),
        ("kafka_credentials_file", "SASL_PLAINTEXT"),
    ):
        given = settings(kafka_security_protocol=protocol, **{name: missing})
        expected = f"cannot read {name.upper()}: No such file or directory.* The file: {missing}"
        with pytest.raises(OperationalError, match=expected):
            kafka_security.spark_options(given)


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing", encoding="utf-8")
    given = settings(kafka_security_protocol="SSL", kafka_ca_file=path)
    with pytest.raises(OperationalError, match="has no certificate"):
        kafka_security.client_options(given)
    trustme.CA().cert_pem.write_to_path(str(path))
    assert kafka_security.client_options(given)["ssl_cafile"] == str(path)
