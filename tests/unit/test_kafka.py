"""The Kafka clients when there is no broker."""

import gc
import threading

import psutil
import pytest
from kafka.errors import KafkaTimeoutError

from pipeline.ingest import kafka
from pipeline.settings import Settings
from tests.conftest import free_port


def test_a_failed_attempt_to_connect_leaves_no_thread_and_no_socket_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", "kafka")  # a kept log record would keep its connection
    settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{free_port()}")
    threads, files = threading.active_count(), psutil.Process().num_fds()
    for connect in (kafka.check_topic, kafka.topic_id):
        with pytest.raises(KafkaTimeoutError):
            connect(settings)
    assert threading.active_count() == threads
    gc.collect()  # the sockets of refused connections are in reference cycles
    assert psutil.Process().num_fds() <= files
