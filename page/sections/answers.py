"""The four cards at the top, which show the findings in short, and the sentence below them.

Both are hand-made HTML. Streamlit's boxes have four looks, and there are five kinds of findings.
The sentence needs a text size between those of a caption and a paragraph, which Streamlit does not
have. All text is escaped.
"""

from collections.abc import Mapping
from html import escape

from pipeline.compare.summary import TITLES, Finding, Kind

#: The tab with the details of each finding, by its title.
PART_OF = dict(zip(TITLES, ("Agreement", "Freshness", "Cost", "Batch run time"), strict=True))
#: A symbol and a word for each kind of finding, for readers who cannot tell the colours apart.
LABELS: Mapping[Kind, tuple[str, str]] = {
    "waiting": ("…", "waiting"),
    "unknown": ("?", "unknown"),
    "fine": ("✓", "fine"),
    "note": ("!", "note"),
    "alarm": ("✕", "alarm"),
}


def choice_html(sentence: str) -> str:
    """Return the sentence about which result to choose as HTML."""
    return f'<div class="p-choice"><b>Which to choose?</b> {escape(sentence)}</div>'


def html(finding: Finding) -> str:
    """Return the card of a finding as HTML."""
    symbol, word = LABELS[finding.kind]
    return (
        f'<div class="p-answer p-{finding.kind}">'
        f'<span class="p-kind">{symbol} {word}</span>'
        f'<div class="p-short">{escape(finding.short)}</div>'
        f'<div class="p-sentence">{escape(finding.sentence)}</div></div>'
    )
