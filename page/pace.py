"""How often the page refreshes its parts, reads the files and compares the paths."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Intervals, seconds. The defaults are the page's; tests use shorter ones."""

    header: float = 1.0
    results: float = 2.0
    records: float = 4.0
    comparison: float = 5.0
    #: For how long one snapshot of the files serves all viewers.
    snapshot: float = 0.4
    #: From the end of one comparison to the start of the next, at least.
    comparison_rest: float = 10.0
    #: The share of a core that comparisons may take.
    comparison_share: float = 0.05
