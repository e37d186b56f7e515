"""The share of the memory for bodies that each client gets."""

import pytest

from aoai_gateway.runtime.held_bytes import Held, HeldBytes
from aoai_gateway.wire.gateway_error import GatewayError

MOST = 1024


def filled(held: HeldBytes, client: str) -> int:
    """Let a client's calls take all that they get."""
    before = held.by_client[client]
    while Held(held, client, MOST).room >= 1:
        Held(held, client, MOST).grow(1)
    with pytest.raises(GatewayError) as caught:
        Held(held, client, MOST).grow(1)
    assert (caught.value.status, dict(caught.value.headers)["retry-after"]) == (503, "1")
    return held.by_client[client] - before


def test_each_client_leaves_room_for_the_next_one() -> None:
    held = HeldBytes()
    assert [filled(held, name) for name in "abcd"] == [512, 256, 128, 64]
    assert filled(held, "a") == 0
    assert held.total == 960


def test_room_that_is_given_back_can_be_had_again() -> None:
    held = HeldBytes()
    call = Held(held, "a", MOST)
    call.grow(400)
    with pytest.raises(GatewayError):
        call.grow(200)
    assert (call.size, held.total) == (400, 400)
    call.release()
    call.release()
    assert (held.total, held.by_client["a"]) == (0, 0)
    Held(held, "a", MOST).grow(512)


def test_a_part_is_given_back_once() -> None:
    held = HeldBytes()
    call = Held(held, "a", MOST)
    call.grow(400)
    call.shrink(300)
    assert (call.size, held.total, held.by_client["a"], held.given_back) == (100, 100, 100, 300)
    call.release()
    call.shrink(50)
    assert (call.size, held.total, held.by_client["a"], held.given_back) == (0, 0, 0, 400)


def test_to_expect_bytes_takes_none() -> None:
    held = HeldBytes()
    call = Held(held, "a", MOST)
    call.expect(512)
    with pytest.raises(GatewayError):
        call.expect(513)
    assert held.total == 0
