"""The comparison section: the state of the newest comparison in words.

The comparison's own texts and tables come from `pipeline.compare.sections`.
"""

from datetime import datetime

from page import formatting
from page.comparison_worker import OLD_SECONDS, LatestComparison
from page.formatting import DASH
from pipeline.compare.summary import TITLES, Finding, Kind

#: What each card shows if there is no comparison. `problem` is the message.
FAILED = "The comparison failed. The message below gives the cause."


def findings(latest: LatestComparison) -> tuple[Finding, ...]:
    """Return the findings of the newest comparison, or placeholders."""
    if latest.data is not None:
        return latest.data.findings
    kind: Kind = "waiting" if latest.asked_at else "unknown"
    sentence = FAILED if latest.problem else ""
    return tuple(Finding(title, DASH, sentence, kind) for title in TITLES)


def choice(latest: LatestComparison) -> str:
    """Return which result to choose, or what the answer needs."""
    found = latest.data
    if found and found.choice:
        return found.choice
    if found is None and latest.problem:
        return "No answer: the comparison failed."
    for finding in found.findings if found else ():
        if finding.kind == "unknown":  # for as long as the services have these settings
            return f"No answer. {finding.sentence}"
    return "No answer yet. The answer needs the ages and the CPU time of both paths."


def age(latest: LatestComparison, now: datetime) -> str:
    """Return how old the comparison is, or for how long the first one has been running."""
    if latest.data is not None and latest.instead_of:
        return (
            f"These are the findings of the time range {latest.span}. The comparison of "
            f"{latest.instead_of} is running."
        )
    if latest.data is not None:
        old = " A newer comparison follows." if is_old(latest, now) else ""
        return f"Compared {formatting.ago(latest.data.made_at, now)}.{old}"
    if latest.problem:
        return ""
    waited = max(0.0, formatting.seconds_since(latest.asked_at, now) or 0.0)
    return f"The first comparison is running ({formatting.age(waited)})."


def is_old(latest: LatestComparison, now: datetime) -> bool:
    """Return whether the newest comparison is too old to describe the present."""
    found = latest.data
    return found is not None and (now - found.made_at).total_seconds() > OLD_SECONDS


def problem(latest: LatestComparison, now: datetime) -> str:
    """Return why there is no comparison or no newer one; empty if the last attempt succeeded."""
    if not latest.problem:
        return ""
    which = "No newer comparison" if latest.data else "No comparison"
    why = formatting.text(latest.problem).rstrip(".")
    return f"{which}: {why}. Last attempt {formatting.ago(latest.tried_at, now)}."


def section_caption(latest: LatestComparison, now: datetime) -> str:
    """Return how old the comparison is, or why there is none."""
    if latest.data is None:
        return problem(latest, now) or age(latest, now)
    return age(latest, now)
