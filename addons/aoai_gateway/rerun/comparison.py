"""The differences between two answers, in words that fit on a screen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from aoai_gateway.rerun.answers import Answer, closeness

MOST_PIECES = 2_000
"""Words and the white space between them, of each answer; the rest is compared as one piece. To find
differences takes the square of it."""

CHANGES_SHOWN = 4
CONTEXT = 10
LONGEST_CHANGE = 50
"""Pieces."""

ALIKE_VECTORS = 0.9999
"""The least cosine of embeddings that count as the same: their last digits vary from call to call."""

_PIECES = re.compile(r"\s+|\S+")


class Verdict(StrEnum):
    """The verdict on a call."""

    SAME = "same"
    DIFFERENT = "different"
    FAILED = "failed"
    """There was an answer, and now there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``alike``: how much of the text is the same, from 0 to 1; ``changes``: a line each."""

    verdict: Verdict
    alike: float
    changes: tuple[str, ...] = ()


def compare(then: Answer, now: Answer) -> Comparison:
    """Compare an answer with an earlier one."""
    if now.error and then.is_good:
        status = f"{now.status} " if now.status >= 400 else ""
        return Comparison(Verdict.FAILED, 0.0, (status + now.error,))
    changes = []
    if then.status != now.status:
        changes.append(f"status: {then.status} → {now.status}")
    if then.finish_reason != now.finish_reason:
        changes.append(f"finish reason: {then.finish_reason or '–'} → {now.finish_reason or '–'}")
    if _code(then) != _code(now):
        changes.append(f"error: {then.error or '–'} → {now.error or '–'}")
    if then.vectors or now.vectors:
        alike = closeness(then.vectors, now.vectors)
        if then.text != now.text:
            changes.append(f"{then.text} → {now.text}")
        elif alike < ALIKE_VECTORS:
            changes.append(f"the vectors' least cosine is {alike:.6f}")
    else:
        alike, differences = compare_texts(then.text, now.text)
        changes += differences
    return Comparison(Verdict.DIFFERENT if changes else Verdict.SAME, alike, tuple(changes))


def _code(answer: Answer) -> str:
    # A message may name a request's id or a time.
    return answer.error.partition(":")[0]


def compare_texts(then: str, now: str) -> tuple[float, list[str]]:
    """Return how much of two texts is the same, and the first differences, each amid the words around it.

    Removed words are in ``[-…-]``, new ones in ``{+…+}``.
    """
    if then == now:
        return 1.0, []
    one, other = _pieces(then), _pieces(now)
    # White space counts, since code and tables may be in it; but it is everywhere, so no match begins there.
    matcher = SequenceMatcher(str.isspace, one, other, autojunk=False)
    lines: list[str] = []
    more = 0
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        if len(lines) == CHANGES_SHOWN:
            more += 1
            continue
        before, after = one[max(0, i - CONTEXT) : i], one[i_end : i_end + CONTEXT]
        gone, new = _shortened(one[i:i_end]), _shortened(other[j:j_end])
        line = "".join(
            [
                "… " if i > CONTEXT else "",
                _line(before),
                f" [-{gone}-]" if gone else "",
                f" {{+{new}+}}" if new else "",
                " ",
                _line(after),
                " …" if i_end + CONTEXT < len(one) else "",
            ]
        )
        lines.append(line.strip())
    if more:
        lines.append(f"and {more} more difference{'s' if more > 1 else ''}")
    return matcher.ratio(), lines


def _pieces(text: str) -> list[str]:
    pieces = _PIECES.findall(text)
    if len(pieces) > MOST_PIECES:
        pieces[MOST_PIECES:] = ["".join(pieces[MOST_PIECES:])]
    return pieces


def _shortened(pieces: list[str]) -> str:
    if len(pieces) <= LONGEST_CHANGE:
        return _line(pieces)
    half = LONGEST_CHANGE // 2
    return f"{_line(pieces[:half])} … {_line(pieces[-half:])}"


def _line(pieces: list[str]) -> str:
    text = "".join(pieces)
    line = text.strip() or text.replace("\n", "⏎")
    return line.replace("\n", "⏎ ")[:400]
