"""`make bench`: the pipeline measured against a plain baseline, both on the same two cores."""
