"""Measure the pipeline and print a table: `python -m benchmarks [--quick] [--keep] [PART ...]`.

Run nothing else at the same time. A part that failed can be measured again alone: its results
replace the old ones in the file.
"""

from dataclasses import asdict
from functools import partial

from benchmarks import batch, catch_up, consumer, inputs, memory, parts, producer, stream
from benchmarks.sizes import FULL, QUICK, Sizes
from feed.arguments import Arguments


def all_parts(sizes: Sizes) -> dict[str, parts.Measure]:
    """Return every part by name, in the order of measurement."""
    return {
        "producer": partial(producer.measure, sizes=sizes),
        "consumer": partial(consumer.measure, sizes=sizes),
        "stream": partial(stream.measure, sizes=sizes),
        "catch-up": partial(catch_up.measure, messages=sizes.catch_up_messages),
        "batch": partial(batch.measure, sizes=sizes),
        "memory": partial(memory.measure, sizes=sizes),
        "tunings": partial(batch.measure_tunings, sizes=sizes),
    }


#: Parts that run only if they are named. They check a decision and have no mark.
ON_REQUEST = ("tunings",)


def main() -> None:
    """Run the chosen parts, print the table and write it as JSON and as Markdown."""
    parser = Arguments(
        prog="python -m benchmarks",
        description="Measures the pipeline against a plain baseline and prints a table.",
    )
    every = all_parts(FULL)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"part to measure again (default all but {', '.join(ON_REQUEST)}): {', '.join(every)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="use smaller inputs, about eight minutes"
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary files")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - every.keys():
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(every)}")
    parts.check(parser, "kafka", "spark")
    sizes = QUICK if arguments.quick else FULL
    every = all_parts(sizes)
    names = arguments.parts or [name for name in every if name not in ON_REQUEST]
    file = parts.FOLDER / ("quick.json" if arguments.quick else "latest.json")
    with parts.session(keep=arguments.keep) as session:
        about = session.about(input=inputs.DESCRIPTION, **asdict(sizes))
        results = parts.run(session, every, names, about, file)
    parts.finish(session, results.text(), file)


if __name__ == "__main__":
    parts.run_program(main)
