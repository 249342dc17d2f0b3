"""The batch path: the whole table to one row and to windows, by Spark, every ten minutes."""
