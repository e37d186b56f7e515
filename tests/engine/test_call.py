"""What a call holds of itself."""

from __future__ import annotations

import gc

from aoai_gateway.engine.call import Call
from tests.engine_driver import world


def test_calls_that_are_kept_share_what_is_empty() -> None:
    here = world("a")
    one, other = here.call().call, here.call().call
    for call in (one, other):
        call.forget_texts()
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in Call.__slots__}
    own = [name for name, (mine, its) in pairs.items() if gc.is_tracked(mine) and mine is not its]
    assert own == ["attempts"], "the garbage collector looks at nothing else of them"
