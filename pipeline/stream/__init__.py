"""The streaming path: Kafka to windows, by Spark Structured Streaming."""
