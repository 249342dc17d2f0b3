"""Run batch_processor.py through spark-submit at a fixed rate and log every run."""

from pipeline.batch.scheduler import main

if __name__ == "__main__":
    main()
