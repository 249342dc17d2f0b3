"""The streaming path: from Kafka to windows, with Spark Structured Streaming."""
