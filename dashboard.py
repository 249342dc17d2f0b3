"""Serve the page that shows the results of stream and batch side by side.

`streamlit run dashboard.py --server.port=8501`. The settings are checked, the code is loaded and
the files are read before the first viewer comes. `page/view.py` is the script for each viewer.
"""

import streamlit as st

from page.charts import comparison, market
from page.files import reader_of
from page.pace import Pace
from pipeline import stores
from pipeline.settings import load

settings = load()
market.prepare(settings.product_id)
comparison.prepare()
reader_of(settings.data_dir, Pace(), stores.store_of(settings)).snapshot()

app = st.App("page/view.py")
