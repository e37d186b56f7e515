import asyncio
import base64
import random
import time
from collections.abc import Callable, Mapping

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_gateway.tokens.counting import Counter
from aoai_gateway.tokens.ranks import CL100K, O200K, Encodings
from aoai_gateway.tokens.text import EXACT_CHARS, EXACT_TEXTS, PIECE_CHARS, count_texts, estimate, pieces
from tests.examples import examples
from tests.machine_speed import slowness

BOTH = pytest.mark.parametrize("name", [O200K, CL100K])

# What the patterns tell apart: blanks of all kinds, line ends, slashes, apostrophes, digits, cases, marks.
BLANKS = " \t\n\r\v\f\x1c\x85\xa0\u2003\u3000\u200b"
TRICKY = st.text(
    st.sampled_from(BLANKS + "/'’sSTdlLvVeE.!?-_<|>09²½aAzZéßǅʰ中の\u0301\u0e33한😀\ud800\udc00"),
    max_size=200,
)
# What decides about cuts, and little else, so that the rare neighbours meet.
DENSE = st.text(st.sampled_from(" \n\r/!a1"), min_size=4, max_size=40)
ANY = st.text(st.characters(), max_size=200)  # lone surrogates included


@BOTH
@settings(max_examples=examples(150))
@given(text=ANY | TRICKY)
def test_counts_are_tiktokens(
    name: str, text: str, encodings: Encodings, reference: Mapping[str, tiktoken.Encoding]
) -> None:
    assert count_texts(encodings.by_name[name], [text]) == (len(reference[name].encode_ordinary(text)), True)


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "what? \ud800 why? \udfff\ufffd",
        "noncharacters \ufdd0\ufdd1 beside \ud800?",
        "all of them, " + "".join(map(chr, range(0xFDD0, 0xFDF0))) + " and \udc00?",
        "a pair \ud83d\ude00 and half of one \ud83d?",
    ],
)
def test_surrogates_are_counted_as_tiktoken_repairs_them(
    name: str, text: str, encodings: Encodings, reference: Mapping[str, tiktoken.Encoding]
) -> None:
    assert count_texts(encodings.by_name[name], [text]) == (len(reference[name].encode_ordinary(text)), True)


@BOTH
@settings(max_examples=examples(400))
@given(text=ANY | TRICKY | DENSE, limit=st.integers(1, 20))
def test_clean_cuts_do_not_change_the_count(
    name: str, text: str, limit: int, reference: Mapping[str, tiktoken.Encoding]
) -> None:
    encoding = reference[name]
    cut = list(pieces(text, limit))
    assert "".join(piece for piece, _ in cut) == text
    assert all(len(piece) <= limit for piece, _ in cut)
    # Pieces between unclean cuts are put together again: what is left are the clean cuts.
    joined = [""]
    for piece, clean in cut:
        joined[-1] += piece
        if clean:
            joined.append("")
    tokens = [token for piece in joined for token in encoding.encode_ordinary(piece)]
    assert tokens == encoding.encode_ordinary(text)


@BOTH
def test_long_texts_stay_exact(
    name: str, encodings: Encodings, reference: Mapping[str, tiktoken.Encoding]
) -> None:
    text = "".join(f"Line {n}: it's a well-known fact that {n * 7919} isn't small.\n\n" for n in range(5_000))
    assert PIECE_CHARS < len(text) < EXACT_CHARS
    assert count_texts(encodings.by_name[name], [text]) == (len(reference[name].encode_ordinary(text)), True)


@BOTH
def test_an_unbroken_run_is_cut_and_says_so(name: str, encodings: Encodings) -> None:
    run = random.Random(7).choices("abcdefghijklmnopqrstuvwxyz", k=4 * PIECE_CHARS)
    encoding = encodings.by_name[name]
    tokens, exact = count_texts(encoding, ["".join(run)])
    assert not exact
    assert abs(tokens - len(encoding.encode_ordinary("".join(run)))) <= 2 * 3  # about one token per cut


@BOTH
@pytest.mark.parametrize("parts", [1, 3, 3000])
def test_beyond_the_limit_it_extrapolates(name: str, parts: int, encodings: Encodings) -> None:
    encoding = encodings.by_name[name]
    words = [
        "gateway ",
        "quota ",
        "the ",
        "of ",
        "tokens, ",
        "reservation; ",
        "42 ",
        "überall ",
        "中文 ",
        "\n",
    ]
    text = "".join(random.Random(3).choices(words, k=500_000))
    size = len(text) // parts
    texts = [text[at : at + size] for at in range(0, len(text), size)]
    tokens, exact = count_texts(encoding, texts)
    truth = sum(
        len(encoding.encode_ordinary(part[at : at + PIECE_CHARS]))
        for part in texts
        for at in range(0, len(part), PIECE_CHARS)
    )
    assert not exact
    assert tokens == pytest.approx(truth, rel=0.02)


def test_a_cheap_beginning_does_not_hide_a_dense_rest(encodings: Encodings) -> None:
    encoding = encodings.by_name[O200K]
    dense = base64.b64encode(random.Random(5).randbytes(1_500_000)).decode()
    tokens, _ = count_texts(encoding, [" " * 500_000 + dense])
    truth = sum(
        len(encoding.encode_ordinary(dense[at : at + PIECE_CHARS]))
        for at in range(0, len(dense), PIECE_CHARS)
    )
    assert tokens == pytest.approx(truth, rel=0.25)


def test_a_great_many_tiny_texts(encodings: Encodings) -> None:
    tokens, exact = count_texts(encodings.by_name[O200K], ["a"] * (20 * EXACT_TEXTS))
    assert (tokens, exact) == (20 * EXACT_TEXTS, False)


@pytest.mark.parametrize("texts", [[], [""], [""] * (EXACT_TEXTS + 1)], ids=["none", "empty", "many empty"])
def test_nothing_is_no_tokens(texts: list[str], encodings: Encodings) -> None:
    assert count_texts(encodings.by_name[O200K], texts).tokens == 0
    assert count_texts(None, texts).tokens == 0


MEGA = 5_000_000
HOSTILE: dict[str, Callable[[], str]] = {
    "one letter": lambda: "a" * MEGA,
    "blanks": lambda: " " * MEGA,
    "blank lines": lambda: " \n" * (MEGA // 2),
    "line feeds": lambda: "\n" * MEGA,
    "no letter after blanks": lambda: "\t" * (MEGA - 1) + "x",
    "upper case": lambda: "A" * MEGA,
    "digits": lambda: "1" * MEGA,
    "punctuation": lambda: "!" * MEGA,
    "marks": lambda: "a" + "\u0301" * (MEGA // 2),
    "letters": lambda: "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=MEGA)),
    "ideographs": lambda: "".join(map(chr, random.Random(2).choices(range(0x4E00, 0x9FFF), k=MEGA // 3))),
    "emoji": lambda: "😀" * (MEGA // 4),
    "lone surrogates": lambda: "\ud800" * (MEGA // 3),
    "surrogates between words": lambda: "a\udc00 " * (MEGA // 5),
    "special tokens": lambda: "<|endoftext|><|im_start|>" * (MEGA // 25),
    "nul": lambda: "\0" * MEGA,
}


@BOTH
@pytest.mark.parametrize("kind", HOSTILE)
def test_five_hostile_megabytes_take_bounded_time(kind: str, name: str, encodings: Encodings) -> None:
    texts = [HOSTILE[kind]()]
    before = time.thread_time()
    tokens, exact = count_texts(encodings.by_name[name], texts)
    # Some tenths of a second on an idle machine; a quadratic way takes minutes.
    assert time.thread_time() - before < 10 * slowness()
    assert tokens > 0
    assert not exact


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.serial
def test_a_thread_that_counts_leaves_the_event_loop_alone(kind: str, counter: Counter) -> None:
    text = HOSTILE[kind]()

    async def longest_stall() -> float:
        loop = asyncio.get_running_loop()
        counting = loop.run_in_executor(None, counter.count_text, text, "gpt-4o")
        longest = 0.0
        last = time.perf_counter()
        while not counting.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return longest

    # Other processes stall this one too, so the best of a few runs is what the counting itself costs.
    stalls = []
    for _ in range(15):
        stalls.append(asyncio.run(longest_stall()))
        if stalls[-1] < 0.02 * slowness():
            return
    pytest.fail(f"stalls of {stalls} s")


class PanicException(BaseException):
    """What pyo3 raises for a Rust panic."""


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode_ordinary(self, text: str) -> list[int]:
        raise self.error


@pytest.mark.parametrize("error", [PanicException("stack overflow"), ValueError("anything")])
def test_when_tiktoken_gives_up_the_piece_is_estimated(error: BaseException) -> None:
    assert count_texts(Failing(error), ["hello there"]) == (4, False)  # type: ignore[arg-type]
    tokens, exact = count_texts(Failing(error), ["a" * 600_000])  # type: ignore[arg-type]
    assert (tokens, exact) == (pytest.approx(200_000, abs=10), False)


def test_an_interrupt_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        count_texts(Failing(KeyboardInterrupt()), ["hello"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("中", 1), ("😀😀", 3), ("\ud800", 1)]
)
def test_the_estimate_is_a_third_of_the_utf8_bytes(text: str, tokens: int) -> None:
    assert estimate(text) == tokens


PROSE = {
    "English": "The committee met on Tuesday to discuss the budget for the coming year.",
    "German": "Der Ausschuss traf sich am Dienstag, um über den Haushalt des kommenden Jahres zu beraten.",
    "Chinese": "委员会于星期二开会讨论了来年的预算,并同意下周再次开会。",
    "Russian": "Комитет собрался во вторник, чтобы обсудить бюджет на следующий год.",
}


@pytest.mark.parametrize("language", PROSE)
def test_the_estimate_is_careful_with_prose(language: str, encodings: Encodings) -> None:
    text = PROSE[language]
    assert estimate(text) >= len(encodings.by_name[O200K].encode_ordinary(text))
