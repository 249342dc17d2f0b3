"""The Streamlit elements that sections share, in Streamlit's own test harness."""

import string

from streamlit.testing.v1 import AppTest

from page import elements


def test_plain_text_has_no_active_punctuation() -> None:
    """CommonMark: a backslash before ASCII punctuation makes it literal."""
    assert elements.plain("a*b <i> $x$ :red[no]") == r"a\*b \<i\> \$x\$ \:red\[no\]"
    escaped = elements.plain(string.punctuation)
    assert escaped == "".join(f"\\{sign}" for sign in string.punctuation)
    assert elements.plain("Größe 5 ≠ –") == "Größe 5 ≠ –"  # noqa: RUF001


def test_every_cell_of_a_table_is_plain_text() -> None:
    def script() -> None:
        from page import elements
        from pipeline.compare.section import Table

        rows = (("*a*", "<b>"), ("[c](d)", "1"))
        elements.titled_table(Table("A *title*", ("x_y", "n"), rows), key="a")

    page = AppTest.from_function(script).run()
    assert not page.exception
    assert page.markdown[0].value == r"**A \*title\***"
    frame = page.table[0].value
    assert frame.columns.tolist() == [r"x\_y", "n"]
    assert frame.to_numpy().tolist() == [[r"\*a\*", r"\<b\>"], [r"\[c\]\(d\)", "1"]]


def test_a_table_without_rows_writes_nothing() -> None:
    def script() -> None:
        from page import elements
        from pipeline.compare.section import Table

        elements.titled_table(Table("Empty", ("x",), ()), key="a")

    page = AppTest.from_function(script).run()
    assert not page.exception
    assert len(page.table) == len(page.markdown) == 0


def test_an_empty_text_keeps_its_place() -> None:
    """Elements below it keep their position in the list that Streamlit sends."""

    def script(text: str) -> None:
        import streamlit as st

        from page import elements

        elements.caption(text)
        elements.alert(text, "error")
        st.text("below")

    for text, count in (("", 0), ("now", 1)):
        page = AppTest.from_function(script, kwargs={"text": text}).run()
        assert len(page.caption) == len(page.error) == count
        assert list(page.main.children)[-1] == 2
