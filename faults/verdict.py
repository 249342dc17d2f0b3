"""Turn the evidence of a run into rows, a table and an exit status. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from faults.truth import Outcome

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
UNKNOWN = "\u2013"
#: The part of a run in which no fault is active.
NO_FAULT = "no fault"
HEADINGS = (
    *("fault", "injected", "offered", "acknowledged", "stored", "lost", "doubled"),
    *("windows right", "windows late", "windows wrong", "windows missing"),
    *("batch runs right", "batch runs wrong"),
    *("recovery, median s", "longest s", "verdict"),
)


@dataclass(frozen=True)
class Injection:
    """One injection of a fault.

    Attributes:
        fault: its name.
        recovery_s: seconds from the end of the fault until the whole stack worked again; None if
            it did not recover.
        problems: what was not as the fault promises.
    """

    fault: str
    recovery_s: float | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The result of one fault."""

    fault: str
    claim: str
    verdict: str
    injected: int = 0
    recovery_s: tuple[float, ...] = ()
    outcome: Outcome = field(default_factory=Outcome)
    problems: tuple[str, ...] = ()


def row(
    fault: str,
    claim: str,
    injections: Sequence[Injection],
    outcome: Outcome,
    *,
    late_is_expected: bool,
) -> Row:
    """Return the row of a fault.

    Args:
        fault: its name.
        claim: what the pipeline promises.
        injections: all injections of this fault.
        outcome: the trades and results that belong to it.
        late_is_expected: whether windows may lack trades that arrived after the watermark.
    """
    problems = [problem for injection in injections for problem in injection.problems]
    recovered = tuple(i.recovery_s for i in injections if i.recovery_s is not None)
    if len(recovered) < len(injections):
        problems.append(f"no recovery after {len(injections) - len(recovered)} injections")
    if not outcome.offered and fault != NO_FAULT:
        problems.append("no trade was offered, so nothing was tested")
    if outcome.late and not late_is_expected:
        problems.append(f"windows that lack late trades: {outcome.late}")
    problems += outcome.problems
    bad = (outcome.lost, outcome.doubled, outcome.wrong, outcome.missing, outcome.batch_wrong)
    return Row(
        fault=fault,
        claim=claim,
        verdict=FAILED if any(bad) or problems else OK,
        injected=len(injections),
        recovery_s=recovered,
        outcome=outcome,
        problems=tuple(problems),
    )


def skipped(fault: str, claim: str, reason: str) -> Row:
    """Return the row of a fault that cannot be injected on this machine."""
    return Row(fault, claim, SKIPPED, problems=(reason,))


def broken(fault: str, claim: str, reason: str) -> Row:
    """Return the row of a fault whose stack the lab could not run to its end."""
    return Row(fault, claim, FAILED, problems=(reason,))


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADINGS, ["---", *["--:"] * (len(HEADINGS) - 2), "---"], *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> list[str]:
    if row.verdict == SKIPPED:
        blank = [UNKNOWN] * (len(HEADINGS) - 2)
        return [row.fault, *blank, f"skipped: {row.problems[0]}"]
    of = row.outcome
    counts = (
        *(row.injected, of.offered, of.acknowledged, of.stored, of.lost, of.doubled),
        *(of.right, of.late, of.wrong, of.missing, of.batch_right, of.batch_wrong),
    )
    seconds = (UNKNOWN, UNKNOWN)
    if row.recovery_s:
        seconds = (f"{median(row.recovery_s):.1f}", f"{max(row.recovery_s):.1f}")
    return [row.fault, *(f"{count:,}" for count in counts), *seconds, row.verdict]


def summary(rows: Sequence[Row]) -> str:
    """Return one line about all rows."""
    injected = sum(row.injected for row in rows)
    totals = {
        name: sum(getattr(row.outcome, name) for row in rows)
        for name in ("offered", "lost", "doubled", "wrong", "missing", "batch_wrong")
    }
    verdicts = {name: sum(row.verdict == name for row in rows) for name in (OK, FAILED, SKIPPED)}
    return (
        f"{injected} faults injected, {totals['offered']:,} trades offered. "
        f"Lost: {totals['lost']}, doubled: {totals['doubled']}, "
        f"windows wrong or missing: {totals['wrong'] + totals['missing']}, "
        f"batch runs wrong: {totals['batch_wrong']}. "
        f"Rows: {verdicts[OK]} ok, {verdicts[FAILED]} failed, {verdicts[SKIPPED]} skipped."
    )


def exit_status(rows: Iterable[Row]) -> int:
    """Return 1 if a row failed, else 0."""
    return int(any(row.verdict == FAILED for row in rows))


def as_json(rows: Iterable[Row]) -> list[Mapping[str, Any]]:
    """Return the rows as JSON values."""
    return [asdict(row) for row in rows]
