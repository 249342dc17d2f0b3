"""The faults: what each does, how often, and what the pipeline promises."""

from functools import partial

from faults.lab import Fault, Lab

#: Injections of each fault that kills one process.
KILLS = 20
#: Every process of the stack that a fault can kill or pause, and what it is.
TARGETS = {
    "producer": "the producer",
    "consumer": "the consumer",
    "spark_processor": "the stream's Python process",
    "stream_jvm": "the stream's Java process",
    "batch_scheduler": "the batch scheduler",
    "batch_run": "a batch run",
    "kafka": "the Kafka broker",
    "dashboard": "the page",
}
#: Targets whose injection and recovery take longer than a few seconds.
SLOW = ("spark_processor", "stream_jvm", "kafka", "batch_run")
EXACT = "no trade lost or doubled, every result right"


def kills() -> list[Fault]:
    """Return the faults that kill one process at a random moment."""
    return [
        Fault(
            name=f"kill-{target}",
            claim=f"SIGKILL of {what}: {EXACT}",
            inject=partial(_kill, targets=(target,)),
            times=KILLS,
            seconds=14 if target in SLOW else 5,
            mixed=True,
        )
        for target, what in TARGETS.items()
    ]


def _kill(lab: Lab, targets: tuple[str, ...]) -> None:
    lab.kill(*targets)


def catalogue() -> list[Fault]:
    """Return every fault, in the order of the table."""
    return kills()
