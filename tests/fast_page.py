"""The page with short intervals: `python -m streamlit run tests/fast_page.py -- SECONDS`."""

import sys

from page.pace import Pace
from page.view import main

seconds = float(sys.argv[1])
main(
    Pace(
        header=seconds,
        results=seconds,
        records=seconds,
        comparison=seconds,
        snapshot=seconds / 2,
        comparison_rest=3.0,
        comparison_share=0.5,
    )
)
