"""The pipeline: what all services share, and a package for each path and for the comparison."""

from pipeline.environment import prepare_this_process

# This call is here because every program imports this package before any other installed package.
prepare_this_process()
