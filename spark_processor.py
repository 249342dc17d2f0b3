"""Compute metrics over 1-minute windows of the trades in Kafka, continuously."""

import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from pipeline import source, spark_jvm
from pipeline.service import Service, run
from pipeline.stream import checkpoint, recovery
from pipeline.stream.micro_batches import Recorder
from pipeline.stream.progress import Progress
from pipeline.stream.query import start_query
from pipeline.stream.topic_watch import TopicWatch
from pipeline.stream.trigger import Trigger
from pipeline.stream.windows import WindowPublisher

if TYPE_CHECKING:  # `pipeline` is imported first: it decides which pyspark is found
    from pyspark.sql import DataFrame


def stream(service: Service, resources: ExitStack) -> None:
    settings = service.settings
    source.check_window(service.data, settings.window)
    session = recovery.start_session(settings)
    resources.callback(session.stop)
    start_s = time.monotonic() - service.began
    service.log.info("session ready after %.2f s", start_s)

    began = time.monotonic()
    topic = resources.enter_context(closing(TopicWatch(service)))
    folder = recovery.prepare(service, topic.id)
    recorder = Recorder(service.data, folder / checkpoint.QUERY, settings, topic.id)
    trigger = Trigger(settings.trigger_seconds, service.stop)
    progress = Progress(service, recorder, topic)
    with recovery.explaining(service, folder, topic) as files:
        windows = WindowPublisher(service, folder, recorder, files)

        def process_micro_batch(changed: "DataFrame", micro_batch: int) -> None:
            rows = changed.collect()
            topic.confirm()  # these records are of this topic
            publication = windows.publish(rows, micro_batch)
            waited_s = 0.0 if windows.closes_in_next_micro_batch else trigger.wait()
            progress.published(micro_batch, publication, waited_s)

        query = start_query(session, settings, folder, process_micro_batch, recorder.records_in)
        resources.callback(query.stop)
        query_s = time.monotonic() - began
        service.log.info("streaming aggregation logic time (start of the query): %.2f s", query_s)
        service.details |= {"start_s": round(start_s, 2), "query_s": round(query_s, 2)}
        service.details["java"] = spark_jvm.version(session)
        progress.follow(query)
        while not service.stop.is_set() and not progress.has_ended(wait_s=1):
            topic.check()
            files.check()
            progress.report()
            service.tick()


if __name__ == "__main__":
    run("spark_processor", stream)
