"""Compute metrics over 1-minute windows of the trades in Kafka, continuously."""

from pipeline.stream.windows import main

if __name__ == "__main__":
    main()
