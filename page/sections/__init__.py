"""What each section of the page shows: its text, rows and empty state. `page/view.py` writes it."""
