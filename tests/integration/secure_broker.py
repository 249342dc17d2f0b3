"""A real broker that accepts only TLS with a login."""

import subprocess
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from local import kafka as local_kafka
from local.ports import listens
from tests.conftest import Broker, Running, wait_until

USER, PASSWORD = "reader", "pass word'$1"


class SecureBroker(Broker):
    """A broker with the protocol SASL_SSL and the mechanism SCRAM-SHA-512."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority = trustme.CA()
        self.authority_file = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority_file))
        self._key_store = folder / "broker.pem"
        certificate = authority.issue_cert("127.0.0.1")
        key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
        # Java reads no other form of a private key.
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._key_store.write_bytes(key_pem + certificate.cert_chain_pems[0].bytes())
        self.credentials_file = folder / "credentials"
        self.credentials_file.write_text(f"{USER}\n{PASSWORD}\n", encoding="utf-8")

    @property
    def settings(self) -> dict[str, object]:
        """The settings of a service that uses this broker."""
        return {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_CREDENTIALS_FILE": self.credentials_file,
            "KAFKA_CA_FILE": self.authority_file,
        }

    @property
    def security(self) -> dict[str, Any]:
        return {
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.authority_file),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        }

    def start(self) -> "SecureBroker":
        properties = self.folder / "server.properties"
        properties.write_text(self._properties(), encoding="utf-8")
        users = {"broker": "internal", USER: PASSWORD}
        added = [f"SCRAM-SHA-512=[name={user},password={users[user]}]" for user in users]
        options = [word for text in added for word in ("--add-scram", text)]
        options += ["--cluster-id", local_kafka.cluster_id(), "--config", str(properties)]
        command = [*local_kafka.java_command(), "kafka.tools.StorageTool", "format", *options]
        subprocess.run(command, check=True, capture_output=True)
        command = [*local_kafka.java_command(), "kafka.Kafka", str(properties)]
        self._running = Running(command, self.folder / "kafka.log", {})
        wait_until(lambda: listens(self.port), 60, "the broker's start", self._running)
        return self

    def _properties(self) -> str:
        """Return the properties of a plain broker and what replaces them: the last line counts."""
        address = f"SASL_SSL://127.0.0.1:{self.port}"
        replaced = {
            "listeners": f"{address},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": address,
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required "
                'username="broker" password="internal";'
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._key_store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority_file,
            "log.dirs": self.folder / "log",
        }
        lines = "".join(f"{name}={value}\n" for name, value in replaced.items())
        return local_kafka.server_properties(self.port, self.controller_port) + lines
