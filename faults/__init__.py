"""The fault lab: injects faults into the real local stack and compares every result."""

import pipeline  # noqa: F401 - first: it decides which installed packages are found
