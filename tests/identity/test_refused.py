"""A credential that an endpoint refuses is fetched anew, once for all calls, and not again and again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aoai_gateway.config.models import Config
from aoai_gateway.identity import credentials, sources
from aoai_gateway.identity.credentials import Credentials
from aoai_gateway.identity.renewal import FetchError
from aoai_gateway.identity.sources import Secret

CONFIG = Config.model_validate(
    {
        "aoai": {
            "endpoints": [
                {"name": "a", "url": "https://a.example", "auth": "managed_identity"},
                {"name": "b", "url": "https://b.example", "auth": "managed_identity"},
                {"name": "written", "url": "https://w.example", "key": "written-key"},
            ]
        },
        "clients": [{"name": "c", "key": "client-key"}],
    }
)
A, B, WRITTEN = CONFIG.aoai.endpoints


class Source:
    """Gives another token each time, or the same; slowly, or not at all."""

    again_seconds: float | None = None

    def __init__(self) -> None:
        self.fetches = 0
        self.same = self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self) -> Secret:
        self.fetches += 1
        time.sleep(0.05)
        self.goes_on.wait(60)
        if self.fails:
            raise FetchError("no answer", "Start it.")
        return Secret("token", "token-1" if self.same else f"token-{self.fetches}", 3600.0)


def with_source(
    script: Callable[[Credentials, Source], Awaitable[None]], patch: pytest.MonkeyPatch
) -> Source:
    source = Source()
    patch.setattr(credentials, "fetcher", lambda _: source)

    async def run() -> None:
        made = Credentials(lambda *_: None)
        await made.adopt(CONFIG)
        try:
            await script(made, source)
        finally:
            await made.close()

    asyncio.run(run())
    return source


def shown(made: Credentials) -> str:
    header = made.header(A)
    assert header is not None
    return header[1].decode()


def test_calls_share_one_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Credentials, source: Source) -> None:
        sent = time.monotonic()
        assert shown(made) == "Bearer token-1"
        answers = await asyncio.gather(*(made.renew(endpoint, sent) for endpoint in (A, B) * 20))
        assert all(answers)
        assert shown(made) == "Bearer token-2"
        assert await made.renew(A, sent), "it was renewed since then"

    assert with_source(script, monkeypatch).fetches == 2


def test_what_is_refused_again_is_not_fetched_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Credentials, source: Source) -> None:
        assert await made.renew(A, time.monotonic())
        for _ in range(20):
            assert not await made.renew(A, time.monotonic())
        monkeypatch.setattr(credentials, "BETWEEN_SECONDS", 0.0)
        assert await made.renew(A, time.monotonic())

    assert with_source(script, monkeypatch).fetches == 3


def test_the_same_one_again_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Credentials, source: Source) -> None:
        source.same = True
        assert not await made.renew(A, time.monotonic())
        assert shown(made) == "Bearer token-1"

    with_source(script, monkeypatch)


def test_a_fetch_that_fails_or_hangs_takes_nothing_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(made: Credentials, source: Source) -> None:
        source.fails = True
        assert not await made.renew(A, time.monotonic())
        assert shown(made) == "Bearer token-1"
        source.fails = False
        monkeypatch.setattr(credentials, "BETWEEN_SECONDS", 0.0)
        monkeypatch.setattr(credentials, "WAIT_SECONDS", 0.01)
        source.goes_on.clear()
        try:
            assert not await made.renew(A, time.monotonic()), "it does not wait for the fetch"
        finally:
            source.goes_on.set()

    with_source(script, monkeypatch)


def test_a_written_key_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Credentials, source: Source) -> None:
        assert not await made.renew(WRITTEN, time.monotonic())

    assert with_source(script, monkeypatch).fetches == 1


def test_a_library_that_keeps_tokens_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Kept:
        """As those of azure-identity, it gives its first token until that nearly ends."""

        def __init__(self) -> None:
            made.append(self)

        def get_token(self, scope: str) -> Any:
            class Token:
                token = f"token-{len(made)}"
                expires_on = time.time() + 3600

            return Token

    monkeypatch.setattr(sources, "_credential", lambda _: Kept())
    source = A.credential_source
    assert source is not None
    fetch = sources.fetcher(source)
    assert [fetch().value, fetch().value] == ["token-1", "token-1"]
    sources.forget(fetch)
    assert fetch().value == "token-2"
