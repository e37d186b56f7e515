"""Tokens before backends have accepted them."""

import asyncio

import pytest

from aoai_gateway.runtime import token_trials
from aoai_gateway.runtime.token_trials import TRIALS, TokenTrials
from aoai_gateway.wire.gateway_error import GatewayError


def test_a_token_is_accepted_until_a_backend_refuses_it() -> None:
    trials = TokenTrials()
    for status, accepted in (
        (500, False),
        (429, False),
        (403, False),
        (200, True),
        (403, True),
        (401, False),
        (101, True),
    ):
        trials.answered("token", status)
        assert trials.is_accepted("token") is accepted, status
        assert not trials.is_accepted("token2")


def test_one_address_has_half_of_the_trials() -> None:
    async def run() -> None:
        trials = TokenTrials(patience=0.05)
        mine = [await trials.begin("a") for _ in range(TRIALS // 2)]
        with pytest.raises(GatewayError) as caught:
            await trials.begin("a")
        assert (caught.value.status, caught.value.code) == (429, "too_many_new_tokens")
        for _ in range(TRIALS // 2):
            await trials.begin("b")
        with pytest.raises(GatewayError):
            await trials.begin("c")
        mine[0].end()
        mine[0].end()
        await trials.begin("c")
        with pytest.raises(GatewayError):
            await trials.begin("c")

    asyncio.run(run())


def test_a_trial_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_trials, "TRIAL_SECONDS", 0.0)

    async def run() -> None:
        trials = TokenTrials()
        for _ in range(TRIALS):
            await trials.begin("a")

    asyncio.run(run())
