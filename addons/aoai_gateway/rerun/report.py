"""The report of a rerun: lines for people, or one JSON document."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.rerun.answers import Comparison, Verdict
from aoai_gateway.rerun.calls import CapturedCall, Outcome, milliseconds

_INDENT = " " * 5


@dataclass(frozen=True, slots=True)
class Row:
    """One call of a run. ``number``: from 1."""

    number: int
    call: CapturedCall
    now: Outcome
    comparison: Comparison

    @property
    def then(self) -> Outcome:
        """The captured result."""
        return self.call.then


def left_out(reasons: Mapping[str, int]) -> str:
    """Return what of a capture is no call of the run."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def row_lines(row: Row) -> list[str]:
    """Return the lines of one call: one for it, and one for each difference."""
    then, now = row.then, row.now
    verdict = row.comparison.verdict.value
    if row.comparison.verdict is Verdict.DIFFERENT:
        verdict += f" ({100 * row.comparison.alike:.0f} % alike)"
    elif row.comparison.verdict is Verdict.FAILED:
        verdict = verdict.upper()
    stream = ", stream" if row.call.streaming else ""
    facts = [
        f"{row.number:>4} {verdict}",
        f"{row.call.operation} {row.call.deployment}{stream}",
        f"tokens {_change(then.answer.input_tokens, now.answer.input_tokens)} in, "
        f"{_change(then.answer.output_tokens, now.answer.output_tokens)} out",
    ]
    if then.first_token is not None or now.first_token is not None:
        facts.append(f"first token {_times(then.first_token, now.first_token)}")
    facts.append(f"total {_times(then.total, now.total)}")
    return ["; ".join(facts), *(_INDENT + change for change in row.comparison.changes)]


def totals(rows: Iterable[Row]) -> dict[str, Any]:
    """Sum a run up. Times are medians of the calls of which both are known, in milliseconds.

    Tokens and times are those of calls that did not fail: the time of a refusal means nothing.
    """
    rows = list(rows)
    verdicts = Counter(row.comparison.verdict for row in rows)
    served = [row for row in rows if row.comparison.verdict is not Verdict.FAILED]
    return {
        "calls": len(rows),
        **{verdict.value: verdicts[verdict] for verdict in Verdict},
        "input_tokens": _sums((r.then.answer.input_tokens, r.now.answer.input_tokens) for r in served),
        "output_tokens": _sums((r.then.answer.output_tokens, r.now.answer.output_tokens) for r in served),
        "first_token_ms": _medians((r.then.first_token, r.now.first_token) for r in served),
        "total_ms": _medians((r.then.total, r.now.total) for r in served),
    }


def total_lines(rows: Iterable[Row]) -> list[str]:
    """Return what a run amounts to."""
    sums = totals(rows)
    calls = f"{sums['calls']} call{'' if sums['calls'] == 1 else 's'}"
    lines = [f"{calls}: {', '.join(f'{sums[verdict.value]} {verdict.value}' for verdict in Verdict)}"]
    for name, label, unit in (
        ("input_tokens", "tokens in", ""),
        ("output_tokens", "tokens out", ""),
        ("first_token_ms", "first token, median", " ms"),
        ("total_ms", "total, median", " ms"),
    ):
        both = sums[name]
        if both is not None:
            lines.append(
                f"  {label:<20} {both['then']:>10,}{unit} → {both['now']:>10,}{unit}{_percent(both)}"
            )
    return lines


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return all calls as a document's member."""
    return [
        {
            "number": row.number,
            "flow": row.call.flow,
            "client": row.call.client,
            "operation": row.call.operation,
            "deployment": row.call.deployment,
            "streaming": row.call.streaming,
            "verdict": row.comparison.verdict.value,
            "alike": round(row.comparison.alike, 4),
            "changes": list(row.comparison.changes),
            "then": _outcome(row.then),
            "now": _outcome(row.now),
        }
        for row in rows
    ]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    answer = outcome.answer
    return {
        "status": answer.status or None,
        "error": answer.error or None,
        "text": answer.text,
        "finish_reason": answer.finish_reason or None,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "first_token_ms": milliseconds(outcome.first_token),
        "total_ms": milliseconds(outcome.total),
    }


def _change(then: object, now: object) -> str:
    shown = ["–" if value is None else str(value) for value in (then, now)]
    return shown[0] if shown[0] == shown[1] else " → ".join(shown)


def _times(then: float | None, now: float | None) -> str:
    return " → ".join("–" if value is None else _duration(value) for value in (then, now))


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _sums(pairs: Iterable[tuple[int | None, int | None]]) -> dict[str, int] | None:
    both = [(then, now) for then, now in pairs if then is not None and now is not None]
    return {"then": sum(t for t, _ in both), "now": sum(n for _, n in both)} if both else None


def _medians(pairs: Iterable[tuple[float | None, float | None]]) -> dict[str, int] | None:
    both = [(then, now) for then, now in pairs if then is not None and now is not None]
    if not both:
        return None
    then, now = (round(1000 * statistics.median(times)) for times in zip(*both, strict=True))
    return {"then": then, "now": now}


def _percent(both: Mapping[str, int]) -> str:
    if not both["then"] or both["then"] == both["now"]:
        return ""
    return f"  ({100 * (both['now'] / both['then'] - 1):+.0f} %)"
