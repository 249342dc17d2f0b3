"""Streamlit elements that several sections use, with text from data shown letter by letter."""

import mimetypes
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pandas as pd
import streamlit as st

from pipeline.compare.section import Table

#: Streamlit reads the text of most elements, and each cell of `st.table`, as Markdown.
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")

Level = Literal["info", "success", "warning", "error"]
_WRITE: Mapping[Level, Callable[..., object]] = {
    "info": st.info,
    "success": st.success,
    "warning": st.warning,
    "error": st.error,
}


def plain(text: str) -> str:
    """Return Markdown that shows this text letter by letter."""
    return _PUNCTUATION.sub(r"\\\1", text)


def anchor(title: str) -> str:
    """Return the anchor of the section with this title, as used in the page's address."""
    return "-".join(re.findall("[a-z]+", title.lower()))


def section(title: str, *, tip: str | None = None) -> None:
    """Write the heading of a section, with a tip beside it."""
    st.subheader(title, anchor=anchor(title), help=tip)


def subsection(title: str, how_to_read: str) -> None:
    """Write the heading of a part of a section, and how to read it."""
    st.markdown(f"##### {plain(title)}")
    caption(how_to_read)


# An element that appears or disappears would move all elements below it to another place in the
# list that Streamlit sends, and the browser would draw them anew. `st.empty` holds the place.


def caption(text: str, *, width: Literal["stretch", "content"] = "stretch") -> None:
    """Write a quiet sentence, or an empty place."""
    if text:
        st.caption(plain(text), width=width)
    else:
        st.empty()


def alert(text: str, level: Level = "info") -> None:
    """Write a sentence in a coloured box, or an empty place."""
    if text:
        _WRITE[level](plain(text))
    else:
        st.empty()


def titled_table(found: Table, *, key: str) -> None:
    """Write a table of the comparison with its title. Numbers are aligned to the right."""
    with st.container():
        if found.rows:
            if found.title:
                st.markdown(f"**{plain(found.title)}**")
            # The class contains the number of columns of words: see style.css.
            name = f"words-{found.text_columns}-{key}"
            table(found.header, found.rows, found.title or key, key=name, max_rows=15)


def download(label: str, file_name: str, make: Callable[[], bytes]) -> None:
    """Write a button. A click on it makes the file and downloads it."""
    st.download_button(
        label,
        data=make,
        file_name=file_name,
        mime=mimetypes.guess_type(file_name)[0],
        key=label,
        on_click="ignore",
    )


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    name: str,
    *,
    key: str,
    max_rows: int | None = None,
    hide_header: bool = False,
) -> None:
    """Write a table of texts.

    Args:
        heads: the column headings, all different.
        rows: the cells, as many in each row as there are headings.
        name: what the table shows, for screen readers.
        key: the CSS class of the container is `st-key-` and this key.
        max_rows: rows from which on the table has a fixed height and scrolls.
        hide_header: whether the headings are not shown.
    """
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    frame = pd.DataFrame(cells, columns=[plain(head) for head in heads], dtype=object)
    with st.container(key=key):
        st.table(
            frame,
            border="horizontal",
            hide_index=True,
            hide_header=hide_header,
            height=320 if max_rows and len(rows) > max_rows else "content",
            alt=name,
        )
