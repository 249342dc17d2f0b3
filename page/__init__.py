"""The parts of the dashboard: reading, judging, wording, drawing. `dashboard.py` shows them."""
