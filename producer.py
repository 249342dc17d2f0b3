"""Read the exchange's ticker messages from its WebSocket and publish them to Kafka."""

from pipeline.ingest.publisher import main

if __name__ == "__main__":
    main()
