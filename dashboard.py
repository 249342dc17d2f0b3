"""The page: what the stream and the batch say of the market, side by side, refreshed by itself.

`streamlit run dashboard.py --server.port=8501`. The settings are checked, the code loaded and the
files read before the first viewer comes; `page/view.py` is what each viewer then gets.
"""

import streamlit as st

from page.charts import comparison as graphs
from page.charts import market as charts
from page.files import reader_of
from pipeline.settings import load

settings = load()
charts.prepare(settings.product_id)
graphs.prepare()
reader_of(settings.data_dir).look()

app = st.App("page/view.py")
