"""The private parts of websocket-client that the project relies on.

Their behaviour is tested over a real socket in test_exchange_connection.py.
"""

import importlib.metadata

from pipeline.ingest.bounded_websocket import CHECKED_VERSION


def test_the_installed_websocket_client_is_the_checked_version() -> None:
    """After an upgrade: read `frame_buffer` and `WebSocket._recv`, then change CHECKED_VERSION."""
    assert importlib.metadata.version("websocket-client") == CHECKED_VERSION
