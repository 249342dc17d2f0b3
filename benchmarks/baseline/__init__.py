"""The same four jobs as most people write them. The benchmarks compare the pipeline with them."""
