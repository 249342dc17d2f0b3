"""The page: it reads the files of the services and shows them. `page/view.py` is its script."""

import pipeline  # noqa: F401 - first: it decides which installed packages are found
