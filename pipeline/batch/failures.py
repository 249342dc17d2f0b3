"""Explain why a batch run failed: the first 100 characters name the action."""

import re

from pipeline.errors import Family, family_of, sentence
from pipeline.java_errors import (
    FULL_HEAP,
    NO_ACCESS,
    NO_SPACE,
    NO_SPACE_TEXT,
    NO_THREAD,
    NO_THREAD_TEXT,
    OPEN_FILES,
    OPEN_FILES_TEXT,
    WRONG_JAR,
    WRONG_JAR_TEXT,
    innermost,
    java_has_ended,
    messages,
    stack_trace,
)
from pipeline.settings import Settings

#: What the Java stack trace of a failed run contains, and the reason of the run: a text with
#: `{cause}` and names of settings in braces. The first rule that matches applies.
RULES = {
    r"org\.postgresql\.util\.PSQL\w*Exception: ": "PostgreSQL stopped the run. Check its server "
    "and STORE_URL. The next run starts at its usual time. Cause: {cause}",
    # A run only reads SQLite, so the disk of its temporary files is full.
    f"{NO_SPACE}|SQLITE_FULL": NO_SPACE_TEXT,
    NO_THREAD: f"the run cannot start another thread. {NO_THREAD_TEXT}",
    FULL_HEAP: "the Java heap is full. Set BATCH_MEMORY above {batch_memory}. Cause: {cause}",
    OPEN_FILES: OPEN_FILES_TEXT,
    "SQLITE_CORRUPT|SQLITE_NOTADB": "crypto_prices.db is damaged. Restore a backup, or move it "
    "away: the consumer fills a new one from Kafka. Cause: {cause}",
    "SQLITE_": "cannot read crypto_prices.db. Check its disk and this user's access to it. The "
    "next run starts at its usual time. Cause: {cause}",
    WRONG_JAR: WRONG_JAR_TEXT,
    NO_ACCESS: "the run has no access to a file. Give this user access to it. Cause: {cause}",
}
_JAVA_ENDED = (
    "the Java process has ended. Free memory on this machine, or change "
    "BATCH_MEMORY={batch_memory}. The next run starts at its usual time. Cause: {cause}"
)


def explain(error: Exception, settings: Settings) -> str:
    """Return why a run failed and what to do, on one line."""
    if java_has_ended(error):
        return _JAVA_ENDED.format(cause=sentence(error), **settings.model_dump())
    if trace := stack_trace(error):
        return explain_text(trace, settings)
    if family_of(error) is not Family.FAULT:
        return sentence(error)
    return _unknown(f"{type(error).__name__}: {sentence(error)}")


def explain_text(trace: str, settings: Settings) -> str:
    """Return the reason for a Java stack trace."""
    cause, text = innermost(trace), messages(trace)
    for pattern, reason in RULES.items():
        if re.search(pattern, text):
            return reason.format(cause=cause, **settings.model_dump())
    return _unknown(cause)


def _unknown(cause: str) -> str:
    return f"unexpected error. Report it if the next run fails, too. Cause: {cause}"
