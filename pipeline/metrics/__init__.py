"""What each metric of a window means, and the sums that Spark or the store computes for it."""
