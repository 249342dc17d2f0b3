"""A section of the comparison: text and tables, which the terminal, the report and the page render.

Sections hold only text, so they can be stored as JSON (`dataclasses.asdict`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text below a header."""

    #: Empty if the heading of the section is enough.
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    #: The number of first columns that hold text. The others hold numbers, aligned to the right.
    text_columns: int = 1


@dataclass(frozen=True)
class Section:
    """One part of the comparison."""

    #: A stable name. The figure of the section is the field of `figures.Figures` with this name.
    key: str
    title: str
    how_to_read: str
    #: The results, one sentence or more per line.
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    #: How to read the figure, and what it shows for readers who do not see it. Empty: there is no
    #: figure.
    figure_note: str = ""
    figure_alt: str = ""
