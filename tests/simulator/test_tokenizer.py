from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aoai_gateway.tokens import Counter
from aoai_simulator import filler_text as words
from aoai_simulator.tokenizer import ByteTokenizer, EncodingTokenizer
from tests.encodings import encodings

COUNTER = Counter(encodings())
TOKENIZER = EncodingTokenizer(COUNTER)


@given(st.text())
@example("日本語 \U0001f9d1\u200d\U0001f680")
@example("\ud800")
def test_the_tokens_of_a_text_are_the_text(text: str) -> None:
    assert "".join(TOKENIZER.split(text, "gpt-4o")) == text
    assert "".join(ByteTokenizer().split(text, "gpt-4o")) == text


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_there_are_as_many_pieces_as_the_gateway_counts(text: str) -> None:
    assert len(TOKENIZER.split(text, "gpt-4o")) == COUNTER.count_text(text, "gpt-4o").tokens


@given(st.text(), st.integers(1, 200), st.sampled_from(["gpt-4o", "gpt-4"]))
def test_each_piece_of_prose_is_one_token(text: str, length: int, model: str) -> None:
    pieces = words.prose(words.digest(1, text), length)
    assert COUNTER.count_text("".join(pieces), model).tokens == len(pieces)


@pytest.mark.parametrize("model", ["gpt-4o", "o4-mini", "unheard-of"])
def test_a_prompt_is_counted_as_the_gateway_counts_it(model: str) -> None:
    body = {"messages": [{"role": "user", "content": "How are you, my friend?"}], "tools": [{"name": "f"}]}
    counted = COUNTER.count_request("chat.completions", body, model).tokens
    assert TOKENIZER.prompt("chat/completions", body, model) == counted


def test_without_encodings_it_estimates() -> None:
    tokenizer = EncodingTokenizer(Counter())
    assert tokenizer.split("two words", "gpt-4o") == ("two", " words")
    assert tokenizer.prompt("completions", {"prompt": "two words"}, "gpt-4o") == 3
