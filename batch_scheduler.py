"""Run batch_processor.py through spark-submit at a fixed rate and log every run."""

from contextlib import ExitStack

from pipeline.batch.scheduler import Scheduler
from pipeline.service import Service, run


def schedule(service: Service, _resources: ExitStack) -> None:
    scheduler = Scheduler(service)
    scheduler.end_abandoned_run()
    scheduler.wait_for_rows()
    scheduler.run()


if __name__ == "__main__":
    run("batch_scheduler", schedule)
