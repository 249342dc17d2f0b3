"""The batch path: at a fixed rate, the whole table to one row and to windows."""
