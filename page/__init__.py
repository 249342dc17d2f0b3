"""The page: it reads the files of the services and shows them. `page/view.py` is its script."""
