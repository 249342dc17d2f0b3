"""The ingest path: from the exchange's socket through Kafka to the store."""
