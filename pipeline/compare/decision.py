"""The sections that help to choose: which path, interval and watermark."""

from pipeline.compare.comparison import Comparison
from pipeline.compare.formatting import UNKNOWN, count, number, seconds
from pipeline.compare.section import Section, Table
from pipeline.compare.watermark import Watermarks
from pipeline.ingest.lags import LONGEST


def watermark_section(comparison: Comparison) -> Section:
    """Return what other watermarks would have dropped."""
    found = comparison.watermarks
    rows = [
        (
            f"{watermark:g} s" + (" (current)" if watermark == found.current_s else ""),
            f"{at_most:,.0f}",
            _share(at_most, found.trades),
            number(estimate, ",.0f"),
            seconds(age),
        )
        for watermark, at_most, estimate, age in found.listed.itertuples(index=False)
    ]
    header = ("watermark", "dropped at most", "share", "estimate", "age of final windows")
    return Section(
        key="watermark",
        title="Watermark",
        how_to_read=(
            "The stream waits for late trades for the length of its watermark. A longer watermark "
            "drops fewer trades and makes final windows older. The stream can drop a trade only "
            "if it comes at least a watermark behind the newest trade before it, so no more "
            "trades than these are dropped. The estimate compares each trade with the newest one "
            "of the micro-batches before the previous one, as Spark does. Ages are medians. "
            "Recovered trades are left out."
        ),
        lines=(watermark_sentence(found),),
        tables=(Table("", header, tuple(rows) if found.trades else ()),),
        figure_note=(
            "Trades that a watermark would have dropped at most, and the estimate. Logarithmic "
            "scale. A line ends where no trade would have been dropped."
        ),
        figure_alt="Share of dropped trades by watermark",
    )


def _share(part: float, whole: int) -> str:
    """Return a share of trades in percent. Only 0 trades are 0 %."""
    if not whole:
        return UNKNOWN
    share = 100 * part / whole
    return "0 %" if not share else "< 0.001 %" if share < 0.001 else f"{share:.3f} %"


def watermark_sentence(found: Watermarks) -> str:
    """Return which watermark would have dropped no trade, and what it costs."""
    if not found.trades:
        return "No lateness yet. The consumer counts it for each trade that it stores."
    trades, current_s, lossless_s = count(found.trades, "trade"), found.current_s, found.lossless_s
    current = None if current_s is None else found.row(current_s)
    if lossless_s is None:
        longest = found.row(LONGEST) or {}
        dropped = f"dropped at most {longest['at_most']:,.0f} of {trades}"
        return f"On this feed, even a watermark of {LONGEST} s would have {dropped}."
    lossless = f"a watermark of {lossless_s} s would have dropped none of {trades}"
    if current_s is None or lossless_s == current_s:
        only = ", and every shorter one at least one" if lossless_s == current_s else ""
        return f"On this feed, {lossless}{only}."
    change = "fresher" if lossless_s < current_s else "older"
    gain = f"made final windows {abs(current_s - lossless_s):g} s {change}"
    sentence = f"On this feed, {lossless} and {gain}."
    if current is not None and current["at_most"]:
        sentence += (
            f" The current one of {current_s:g} s would have dropped at most "
            f"{current['at_most']:,.0f}."
        )
    return sentence
