"""The gateway's own credentials, by endpoint: each of them, or the reason why there is none."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from aoai_gateway.config.credentials import source_name
from aoai_gateway.identity.renewal import Renewal, cancel_all, wait_for_all
from aoai_gateway.identity.sources import Secret, fetcher, forget
from aoai_gateway.wire.masking import KnownSecrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aoai_gateway.config.credentials import Source
    from aoai_gateway.config.endpoints import Endpoint
    from aoai_gateway.config.models import Config

ADOPT_SECONDS = 5.0
"""How long a configuration waits for its first credentials before it is put in force without them."""

WAIT_SECONDS = 5.0
"""How long a call waits at most for a credential that is being fetched for the first time."""

MARGIN_SECONDS = 1.0
"""A break for want of a credential lasts a bit longer than the pause until the next attempt."""

BETWEEN_SECONDS = 10.0
"""Seconds between two fetches of one credential since it was refused."""

logger = logging.getLogger(__name__)

type Kept = Renewal[Secret]

type Told = Callable[[str, str, float, bool], None]
"""Called with an endpoint's name, the reason why it has no credential ("": it has one), seconds, and whether
it is shown another one from now on."""


class Credentials:
    """All credentials that are fetched; endpoints that name the same source share one."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._renewals: dict[Source, Kept] = {}
        self._tasks: dict[Source, asyncio.Task[None]] = {}
        self._endpoints: dict[Kept, list[str]] = {}
        self._masks: dict[Kept, tuple[Secret, ...]] = {}
        self._known: dict[Kept, KnownSecrets] = {}
        self.masks: tuple[KnownSecrets, ...] = ()
        """The masks of all of them."""
        self._asked: dict[Kept, float] = {}
        """When each was fetched last since an endpoint had refused it."""

    async def adopt(self, config: Config) -> None:
        """Fetch what the configuration needs from now on; comes back when it is there, or has failed."""
        wanted: dict[Source, list[str]] = {}
        for endpoint in config.aoai.endpoints:
            source = endpoint.credential_source
            if source is not None and endpoint.enabled:
                wanted.setdefault(source, []).append(endpoint.name)
        for source in self._tasks.keys() - wanted.keys():
            # Calls under way may still need it, so it stays until the next configuration.
            self._tasks.pop(source).cancel()
        for source in self._renewals.keys() - wanted.keys() - self._endpoints_of_last():
            gone = self._renewals.pop(source)
            self._masks.pop(gone, None)
            self._known.pop(gone, None)
            self._asked.pop(gone, None)
        self.masks = tuple(self._known.values())
        before = {name for names in self._endpoints.values() for name in names}
        for name in before - {name for names in wanted.values() for name in names}:
            self._told(name, "", 0.0, False)
        self._endpoints = {}
        for source, names in wanted.items():
            if source not in self._renewals:
                name = f"Credential from {source_name(source)}"
                self._renewals[source] = Renewal(name, fetcher(source), self._changed)
            renewal = self._renewals[source]
            self._endpoints[renewal] = names
            if source not in self._tasks:
                self._tasks[source] = asyncio.create_task(renewal.run(), name=renewal.name)
            self._changed(renewal)
        await wait_for_all(self._endpoints, ADOPT_SECONDS)

    def _endpoints_of_last(self) -> set[Source]:
        return {source for source, renewal in self._renewals.items() if renewal in self._endpoints}

    def _changed(self, renewal: Kept) -> None:
        secret = renewal.value
        earlier = self._masks.get(renewal, ())
        is_another = secret is not None and secret not in earlier
        if secret is not None and is_another:
            # The one before may still turn up in answers that are under way.
            masked = self._masks[renewal] = (secret, *earlier[:1])
            self._known[renewal] = KnownSecrets(each.value for each in masked)
            self.masks = tuple(self._known.values())
        if secret is None and not renewal.problem:
            return
        reason, seconds = "", 0.0
        if secret is None:
            reason = why(renewal)
            if renewal.retry_at is not None:
                seconds = max(0.0, renewal.retry_at - time.monotonic())
        for name in self._endpoints.get(renewal, ()):
            self._told(name, reason, seconds + MARGIN_SECONDS, is_another)

    def header(self, endpoint: Endpoint) -> tuple[bytes, bytes] | None:
        """Return the header field with an endpoint's fetched credential; None while it has no credential."""
        renewal = self._of(endpoint)
        secret = renewal.value if renewal is not None else None
        if secret is None:
            return None
        if secret.kind == "key":
            return (b"api-key", secret.value.encode())
        return (b"authorization", b"Bearer " + secret.value.encode())

    def is_coming(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint's first credential is being fetched, so that waiting for it makes sense."""
        renewal = self._of(endpoint)
        return renewal is not None and not renewal.settled.is_set()

    async def wait_for(self, endpoint: Endpoint) -> None:
        """Wait until an endpoint's first credential has come or failed, within a bound."""
        renewal = self._of(endpoint)
        if renewal is not None:
            await renewal.wait(WAIT_SECONDS)

    async def renew(self, endpoint: Endpoint, shown_at: float) -> bool:
        """Have another credential fetched, since the endpoint refuses what it was shown then (monotonic).

        Says whether there is one that it has not seen. All calls share one fetch, and what is refused again
        and again is fetched anew every `BETWEEN_SECONDS` only: the identity lacks a role then, perhaps.
        """
        renewal = self._of(endpoint)
        if renewal is None:
            return False
        if not _is_newer(renewal, shown_at) and renewal.settled.is_set():
            now = time.monotonic()
            if now - self._asked.get(renewal, -math.inf) < BETWEEN_SECONDS:
                return False
            self._asked[renewal] = now
            logger.info("%s is refused by %s; it is fetched anew.", renewal.name, endpoint.name)
            forget(renewal.fetch)
            await renewal.at_once(WAIT_SECONDS)
        elif not renewal.settled.is_set():
            await renewal.wait(WAIT_SECONDS)
        return _is_newer(renewal, shown_at) and renewal.value is not None

    def why_none(self, endpoint: Endpoint) -> str:
        """Return why there is no credential for an endpoint, and the remedy."""
        renewal = self._of(endpoint)
        if renewal is None:
            return "no credential: give the endpoint a key, or auth"
        return why(renewal)

    def all(self) -> Iterator[tuple[Kept, list[str]]]:
        """Iterate over the fetched credentials, with the names of the endpoints that need them."""
        yield from self._endpoints.items()

    def _of(self, endpoint: Endpoint) -> Kept | None:
        source = endpoint.credential_source
        return self._renewals.get(source) if source is not None else None

    async def close(self) -> None:
        """Fetch nothing any more."""
        await cancel_all(self._tasks)


def _is_newer(renewal: Kept, than: float) -> bool:
    return renewal.changed_at is not None and renewal.changed_at > than


def why(renewal: Kept) -> str:
    """Return why there is no credential, in a line that clients may see."""
    if not renewal.problem:
        return f"no {renewal.name[0].lower()}{renewal.name[1:]} yet"
    return f"no {renewal.name[0].lower()}{renewal.name[1:]}. {renewal.remedy}"
