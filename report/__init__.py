"""The report: what was compared, as one HTML file, and as Markdown beside its figures."""
