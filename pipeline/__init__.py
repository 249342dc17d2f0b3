"""The pipeline: what all services share, and a package for each path and for the comparison."""

from pipeline.environment import prepare_this_process

# Here, because every program imports this package before any other package that is installed.
prepare_this_process()
