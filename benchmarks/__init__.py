"""Compare the pipeline with a plain baseline, both on the same two cores (`make bench`)."""
