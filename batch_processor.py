"""Compute the metrics over the whole table, once. batch_scheduler.py runs it by spark-submit."""

import gc
import sys

# spark-submit puts zip files of pyspark first. They hold no compiled modules: 0.6 s more to import.
sys.path[:] = [path for path in sys.path if "pyspark/python/lib" not in path]

from pipeline.batch import job
from pipeline.errors import exit_on_error
from pipeline.settings import load

if __name__ == "__main__":
    gc.disable()  # a run keeps all windows until its end, so a collection frees nothing
    arguments = job.parse_arguments()
    with exit_on_error():
        status = job.run(load(), arguments)
    sys.exit(status)
