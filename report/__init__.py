"""The report: what was compared, as one HTML file, and as Markdown beside its figures."""

import pipeline  # noqa: F401 - first: it decides which installed packages are found
