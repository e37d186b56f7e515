"""Breaks that end when an endpoint is shown another credential, wherever that comes from."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aoai_gateway.config.credentials import KeySource
from aoai_gateway.routing.breaker import BreakLengths, FailedCall
from aoai_gateway.runtime.gateway import Gateway
from tests.engine_driver import config

LENGTHS = {"standard": BreakLengths(default=10, floor=1, ceiling=600)}


def test_a_key_in_a_file_that_changes_ends_the_break(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("wrong-key")
    plain = config("a")
    (endpoint,) = (each.but(key=KeySource(file=file)) for each in plain.aoai.endpoints)
    made = plain.but(aoai=plain.aoai.but(endpoints=(endpoint,)))

    async def story() -> None:
        gateway = Gateway()
        try:
            await gateway.prepare(made)
            gateway.adopt(made)
            (backend,) = gateway.in_force().table.backends
            breaks, now = gateway.engine.breaks, gateway.clock.monotonic()
            breaks.open_for(FailedCall(("a", None), now, 600, "401", "a call", refuses_us=True), LENGTHS)
            ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            gateway.credential_breaks.tell_ends = ended.set_result
            await gateway.prepare(made)
            gateway.adopt(made)
            assert breaks.on(backend, now), "the same key is refused again"
            file.write_text("right-key")
            assert await asyncio.wait_for(ended, 60) == (("a", None),)
            assert breaks.on(backend, now) is None
            assert gateway.credentials.header(endpoint) == (b"api-key", b"right-key")
        finally:
            await gateway.close()

    asyncio.run(story())


def test_without_a_credential_an_endpoint_is_skipped_until_there_is_one() -> None:
    gateway = Gateway()
    gateway.adopt(config("a"))
    (backend,) = gateway.in_force().table.backends
    breaks, now = gateway.engine.breaks, gateway.clock.monotonic()
    gateway.credential_breaks.told("a", "no key", 60.0, False)
    brk = breaks.on(backend, now)
    assert brk is not None
    assert brk.reason == "no key"
    gateway.credential_breaks.told("a", "", 0.0, True)
    assert breaks.on(backend, now) is None
