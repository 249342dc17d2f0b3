"""A viewer of the page without a browser, for the memory benchmark.

Streamlit runs the page only for a client that sends a message of its WebSocket protocol, and it has
no public client. A browser would use CPU time and memory that distort the measurement. This module
is the only user of the private message class `BackMsg`. Checked with Streamlit 1.67. A test starts
a real Streamlit server and fails when the protocol changes.
"""

import threading
import time
from contextlib import closing
from typing import Self

import websocket
from streamlit.proto.BackMsg_pb2 import BackMsg

from benchmarks.processes import BenchmarkError

#: Seconds between two runs of the page that the viewer requests.
VIEW_SECONDS = 3.0


class Viewer:
    """Request a new run of the page every few seconds (a context manager).

    Attributes:
        messages: number of messages that the page has sent.
    """

    def __init__(self, port: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._view, daemon=True)
        self.messages = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def check(self) -> None:
        """Raise BenchmarkError if the page has sent nothing."""
        if not self.messages:
            raise BenchmarkError("the page has sent nothing to its viewer")

    def _view(self) -> None:
        while not self._stop.wait(1):
            try:
                with closing(websocket.create_connection(self._url, timeout=1)) as page:
                    self._read(page)
            except (websocket.WebSocketException, OSError):
                continue

    def _read(self, page: websocket.WebSocket) -> None:
        run_again = BackMsg()
        run_again.rerun_script.query_string = ""
        due = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= due:
                due = time.monotonic() + VIEW_SECONDS
                page.send_binary(run_again.SerializeToString())
            try:
                page.recv()
                self.messages += 1
            except websocket.WebSocketTimeoutException:
                continue
