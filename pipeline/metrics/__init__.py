"""What each metric of a window means, and the sums that Spark computes for it."""
