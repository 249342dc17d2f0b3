"""The same four jobs, written as most people write them: what the pipeline is measured against."""
