"""What runs the stack on one machine without containers: broker, topics, supervisor."""

import pipeline  # noqa: F401 - first: it decides which installed packages are found
