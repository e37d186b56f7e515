"""What the answers of a call may take, as deadlines, routing and quotas count it alike."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import LARGEST_BOUND, Call
from aoai_gateway.engine.effects import Reserve
from aoai_gateway.wire.bodies import parse_body
from tests.engine_driver import CHAT, EMBEDDINGS, RESPONSES, World, world

TEXT = "/openai/v1/completions"


def asked(path: str, raw: bytes, **edits: int) -> Call:
    call = world("a").make_call("one", Client(name="a", key="key-of-a"), path=path)
    call.body = parse_body(call.target, None, raw)
    call.edits = edits
    return call


@pytest.mark.parametrize(
    ("path", "raw", "bound"),
    [
        (CHAT, b'{"max_tokens": 10}', 10),
        (CHAT, b'{"max_tokens": 10, "max_completion_tokens": 20, "n": 3}', 60),
        (CHAT, b"{}", None),
        (CHAT, b'{"max_tokens": 0}', None),
        (CHAT, b'{"max_tokens": 2147483647, "n": 9}', LARGEST_BOUND),
        (TEXT, b'{"prompt": "a"}', 16),
        (TEXT, b'{"prompt": ["a", "b"], "max_tokens": 10, "n": 2, "best_of": 3}', 60),
        (TEXT, b'{"prompt": [1, 2, 3], "max_tokens": 10}', 10),
        (RESPONSES, b'{"input": "a", "max_output_tokens": 10, "n": 5}', 10),
        (EMBEDDINGS, b'{"input": "a", "max_tokens": 10}', 0),
    ],
)
def test_the_bound_is_that_of_all_answers_together(path: str, raw: bytes, bound: int | None) -> None:
    assert asked(path, raw).completion_bound() == bound


def test_what_the_clients_limits_set_counts() -> None:
    assert asked(CHAT, b'{"max_tokens": 10, "n": 4}', max_tokens=5, n=2).completion_bound() == 10
    assert asked(CHAT, b"{}", max_tokens=5).completion_bound() == 5


def test_routing_and_quota_count_the_same() -> None:
    here: World = world("a")
    team = Client(name="team", key="key-of-team", max_tokens_per_minute=100_000)
    body: dict[str, Any] = {"model": "gpt", "prompt": ["x"] * 20, "max_tokens": 1000}
    trace = here.call(body, path=TEXT, client=team)
    booked = next(e.reservation.tokens for _, e in trace.effects if isinstance(e, Reserve))
    capacity = here.engine.scheduler.capacities.of(here.backend("a"), "gpt")
    assert 20_000 <= booked <= 20_100
    assert trace.call.estimate >= 20_000
    assert capacity is not None
