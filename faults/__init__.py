"""The fault lab: injects faults into the real local stack and compares every result."""
