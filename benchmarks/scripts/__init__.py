"""Programs that the benchmarks start: the limits of kafka-python, filling a topic, Flink."""
