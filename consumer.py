"""Store the trades of Kafka's raw_prices in SQLite."""

from pipeline.ingest.loader import main

if __name__ == "__main__":
    main()
