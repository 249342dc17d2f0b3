"""The four jobs, written as in tutorials. The benchmarks compare the pipeline with them."""
