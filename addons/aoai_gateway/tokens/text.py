"""Texts -> tokens, in bounded time for any text.

tiktoken is fast and exact, but not safe on its own for text that strangers send:

- a million blanks overflow its regex engine's stack (`PanicException`, not an `Exception`), so it
  never sees more than `PIECE_CHARS` at once;
- lone surrogates take a slow path that holds the GIL, so they are repaired first, to what tiktoken
  itself would make of them;
- time grows with the text, so beyond `EXACT_CHARS` an even sample is counted and extrapolated.

Cutting keeps counts exact where the cut cannot touch a token. Both patterns of `ranks` agree that no
token continues from a non-blank into a space, or from a line feed into anything visible but a slash;
neither looks behind, and only a run of blanks looks ahead. A text without such a place for a
kilobyte is cut anyhow, which costs about one token, and the count no longer calls itself exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tiktoken import Encoding

PIECE_CHARS = 65_536
EXACT_CHARS = 400_000
EXACT_TEXTS = 50_000
_CUT_SEARCH_CHARS = 1_024

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")

_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Never assigned (Unicode Standard §23.7), so hardly any text has them."""


class Tally(NamedTuple):
    """Tokens, and whether that is every token of the text as the encoding itself would count it."""

    tokens: int
    exact: bool


def estimate(text: str) -> int:
    """Tokens of a text without an encoding: a third of its UTF-8 bytes, rounded up.

    The careful rule: too much for prose in any language, about right for code, up to a fifth too
    little for JSON. Only base64 and emoji are far above it.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // 3)


def count_texts(encoding: Encoding | None, texts: Sequence[str]) -> Tally:
    """Tokens of all texts together, each encoded for itself; an estimate without an encoding."""
    if encoding is None:
        return Tally(sum(map(estimate, texts)), not any(texts))
    if too_much(texts):
        return Tally(count_sample(encoding, sample(texts), sum(map(len, texts))), exact=False)
    tokens = 0
    exact = True
    for text in texts:
        # Most texts are one piece; thousands of tiny ones must not pay for the cutting of a large one.
        for piece, clean in pieces(text) if len(text) > PIECE_CHARS else ((text, True),):
            counted = _encoded(encoding, piece)
            tokens += estimate(piece) if counted is None else counted
            exact = exact and clean and counted is not None
    return Tally(tokens, exact)


def pieces(text: str, limit: int = PIECE_CHARS) -> Iterator[tuple[str, bool]]:
    """Cut a text into pieces of at most `limit` characters; with each, whether it ends at a clean cut."""
    start = 0
    while len(text) - start > limit:
        cut = _clean_cut(text, start, start + limit)
        yield text[start : cut or start + limit], cut is not None
        start = cut or start + limit
    yield text[start:], True


def _clean_cut(text: str, start: int, end: int) -> int | None:
    """The last place in (start, end] where no token of either encoding can continue."""
    for cut in range(end, max(start, end - _CUT_SEARCH_CHARS), -1):
        before, after = text[cut - 1], text[cut]
        if after == " ":
            if not before.isspace():
                return cut
        elif before == "\n" and after != "/" and not after.isspace():
            return cut
    return None


def too_much(texts: Sequence[str]) -> bool:
    """Whether only a sample of these texts is counted."""
    return len(texts) > EXACT_TEXTS or sum(map(len, texts)) > EXACT_CHARS


def sample(texts: Sequence[str], most: int = EXACT_CHARS, piece: int = PIECE_CHARS) -> list[str]:
    """Take pieces of that size, spread evenly over the texts, up to ``most`` characters of them."""
    some = texts[:: max(1, -(-len(texts) // EXACT_TEXTS))]
    # Where the pieces begin, not the pieces: a text of 100 MB is not copied to be sampled.
    starts = [(text, start) for text in some for start in range(0, len(text), piece)]
    affordable = len(starts) * most // max(1, sum(map(len, some)))
    wanted = min(len(starts), max(1, affordable))
    taken: list[str] = []
    chars = 0
    for index in range(wanted):
        text, start = starts[index * len(starts) // wanted]
        taken.append(text[start : start + piece])
        chars += len(taken[-1])
        if chars > most:
            break
    return taken


def count_sample(encoding: Encoding, taken: Sequence[str], chars: int) -> int:
    """Tokens of texts of so many characters, of which a sample was taken; scaled by characters."""
    tokens = 0
    for piece in taken:
        counted = _encoded(encoding, piece)
        tokens += estimate(piece) if counted is None else counted
    return round(tokens * chars / max(1, sum(map(len, taken))))


def _encoded(encoding: Encoding, piece: str) -> int | None:
    """Tokens of one piece, or None if tiktoken gave up on it."""
    if not piece.isascii():
        piece = repaired(piece)
    try:
        return len(encoding.encode_ordinary(piece))
    except BaseException as error:
        # pyo3 derives its panic from BaseException and exports no name to catch it by.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            return None
        raise


def repaired(piece: str) -> str:
    """Make of surrogates what tiktoken would: a pair becomes its character, another one U+FFFD.

    By codecs, which are done with a piece in a millisecond, and where the piece leaves no character to mark
    places with, match by match.
    """
    if not _SURROGATES.search(piece):
        return piece
    spare = next((character for character in _NONCHARACTERS if character not in piece), None)
    if spare is None or _PAIR.search(piece):  # JSON's decoder leaves no pairs
        return _SURROGATES.sub(_repaired_one, piece)
    marked = piece.replace("?", spare).encode(errors="replace").decode()
    return marked.replace("?", "\ufffd").replace(spare, "?")


def _repaired_one(surrogates: re.Match[str]) -> str:
    """One pair or surrogate; called per match, so that other threads get their turn in between."""
    found = surrogates[0]
    if len(found) == 1:
        return "\ufffd"
    return chr(0x10000 + ((ord(found[0]) - 0xD800) << 10) + ord(found[1]) - 0xDC00)
