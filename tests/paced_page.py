"""The page with other intervals: `python -m streamlit run tests/paced_page.py -- SECONDS REST`.

SECONDS is the interval between refreshes. REST is the time between two comparisons, at least.
"""

import sys

from page.pace import Pace
from page.view import main

seconds, rest = map(float, sys.argv[1:])
main(
    Pace(
        header=seconds,
        results=seconds,
        records=seconds,
        comparison=seconds,
        snapshot=min(0.4, seconds / 2),
        comparison_rest=rest,
        comparison_share=0.5,
    )
)
