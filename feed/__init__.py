"""A replacement for the exchange: replay a recording, record the exchange, make the sample."""
