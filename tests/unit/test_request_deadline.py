"""The private name of `http.client` that the deadline uses. `test_rest.py` tests the deadline."""

import http.client
import inspect
import socket


def test_a_connection_opens_its_socket_by_the_private_name() -> None:
    one = http.client.HTTPConnection("127.0.0.1")
    assert vars(one)["_create_connection"] is socket.create_connection
    opens = "self.sock = self._create_connection("
    assert opens in inspect.getsource(http.client.HTTPConnection.connect)
    # Also for TLS: it connects as without TLS, then it wraps the socket.
    assert "super().connect()" in inspect.getsource(http.client.HTTPSConnection.connect)
