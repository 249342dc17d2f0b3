"""A replacement for the exchange: replay a recording, record the exchange, make the sample."""

import pipeline  # noqa: F401 - first: it decides which installed packages are found
