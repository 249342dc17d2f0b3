"""Compute metrics over 1-minute windows of the trades in Kafka, continuously."""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline import source, spark
from pipeline.ingest.kafka import check_topic, topic_id
from pipeline.service import Service, run
from pipeline.stream.micro_batches import Recorder
from pipeline.stream.pace import Pace
from pipeline.stream.progress import Progress
from pipeline.stream.query import checkpoint_folder, start_query
from pipeline.stream.windows import WindowPublisher

if TYPE_CHECKING:  # `pipeline` is imported first: it decides which pyspark is found
    from pyspark.sql import DataFrame


def stream(service: Service, resources: ExitStack) -> None:
    settings = service.settings
    source.check_window(service.data, settings.window)
    session = spark.session("stream", spark.stream_configuration(settings))
    resources.callback(session.stop)
    start_s = time.time() - service.began
    service.log.info("session ready after %.2f s", start_s)
    service.retrying("Kafka")(check_topic, settings)
    topic = service.retrying("Kafka")(topic_id, settings)

    began = time.time()
    folder = checkpoint_folder(settings)
    recorder = Recorder(service.data, folder / "query", settings, topic)
    windows = WindowPublisher(service, folder / "open_windows.json", recorder)
    pace = Pace(settings.trigger_seconds, service.stop)
    progress = Progress(service)

    def process_micro_batch(changed: "DataFrame", micro_batch: int) -> None:
        publication = windows.publish(changed.collect(), micro_batch)
        waited_s = 0.0 if windows.closes_next else pace.wait()
        progress.published(micro_batch, publication, waited_s)

    query = start_query(session, settings, process_micro_batch)
    resources.callback(query.stop)
    query_s = time.time() - began
    service.log.info("streaming aggregation logic time: %.2f s", query_s)
    service.details |= {
        "start_s": round(start_s, 2),
        "query_s": round(query_s, 2),
        "java": spark.java_version(session),
    }
    service.report("running", "reads Kafka and writes windows", healthy=True)
    while not service.stop.is_set() and not query.has_ended(wait_s=1):
        progress.poll(query.spark)
        progress.report()
        service.tick()


if __name__ == "__main__":
    run("spark_processor", stream)
