"""What calls cost."""

from __future__ import annotations

import pytest

from aoai_gateway.config.prices import Price
from tests.engine_driver import config


def test_cached_tokens_have_their_own_price() -> None:
    price = Price(input=2.5, output=10, cached_input=1.25)
    assert price.cost(1_000_000, 100_000) == pytest.approx(3.5)
    assert price.cost(1_000_000, 0, cached_tokens=400_000) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25)
    assert Price(input=2, output=0).cost(1_000_000, 0, cached_tokens=500_000) == pytest.approx(2)


def test_a_price_is_found_by_deployment_and_by_model() -> None:
    at = config("a", prices={"gpt-4o": {"input": 1, "output": 2}, "gpt-4o-mini": {"input": 3, "output": 4}})
    assert at.price_of("gpt-4o") == at.prices["gpt-4o"]
    assert at.price_of("smart", "gpt-4o-2024-11-20") == at.prices["gpt-4o"]
    assert at.price_of("smart", "gpt-4o-mini-2024-07-18") == at.prices["gpt-4o-mini"]
    assert at.price_of("smart", "o3-2025-04-16") is None
    assert at.price_of("smart") is None
    assert at.but(prices={"gpt-4o": at.prices["gpt-4o"]}).price_of("small", "gpt-4o-mini-2024-07-18") is None


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        # Of 60 tokens 20 are text and 40 audio; of 10 cached ones, 4 are text and 6 audio.
        ({}, 60 * 10),
        ({"audio_input": 100}, 20 * 10 + 40 * 100),
        ({"cached_input": 1}, 50 * 10 + 10),
        ({"cached_input": 1, "audio_input": 100}, 16 * 10 + 34 * 100 + 10),
        ({"cached_input": 1, "audio_input": 100, "cached_audio_input": 2}, 16 * 10 + 34 * 100 + 4 + 12),
        ({"audio_input": 100, "cached_audio_input": 2}, 20 * 10 + 34 * 100 + 12),
    ],
)
def test_what_is_cached_and_audio_is_priced_once(prices: dict[str, float], cost: float) -> None:
    price = Price.model_validate({"input": 10, "output": 0, **prices})
    found = price.cost(60, 0, 10, input_audio_tokens=40, cached_audio_tokens=6)
    assert found == pytest.approx(cost / 1_000_000)
