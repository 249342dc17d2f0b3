"""The pipeline: what all services share, and a package for each path and for the comparison."""
