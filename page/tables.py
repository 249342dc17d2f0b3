"""Plain HTML tables of text. Everything in them is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], name: str, kind: str = "p-numbers"
) -> str:
    """A table of texts, its first column the heads of the rows."""
    lines = [
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(
            f'<td data-head="{escape(head)}">{escape(str(cell))}</td>'
            for head, cell in zip(heads[1:], cells, strict=True)
        )
        + "</tr>"
        for first, *cells in rows
    ]
    return framed(heads, lines, name, kind)


def framed(heads: Sequence[str], lines: Iterable[str], name: str, kind: str) -> str:
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="p-scroll {kind}-box" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="p-table {kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
