"""The batch path: the whole table to one row, by Spark, every ten minutes."""
