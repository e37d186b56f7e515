"""What is wrong with a running gateway now: for the banner, readiness, and metrics, in the same words.

Nothing of what peers have said is in these words, since probes without a key see them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aoai_gateway.runtime.gateway import Gateway

EXPIRES_SOON_SECONDS = 14 * 86_400.0

OWN = ("listen.certificate",)
"""What the gateway itself cannot serve without, of what expires."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong. ``kind``: pool_empty, failing, sink, expiry, shared_state or configuration."""

    kind: str
    text: str
    public: str = ""
    """The same for strangers, where it is not for their eyes."""

    def for_strangers(self) -> str:
        """Say it to a probe, which shows no key."""
        return self.public or self.text


def troubles(gateway: Gateway) -> list[Trouble]:
    """Return what is wrong now; nothing, as a rule."""
    return [
        *_empty_pools(gateway),
        *_failing(gateway),
        *_sinks(gateway),
        *_expiries(gateway),
        *_shared_state(gateway),
        *_configuration(gateway),
    ]


def empty_pools(gateway: Gateway) -> dict[str, float]:
    """Return the virtual deployments of which no backend may be tried, and the seconds until one may."""
    if gateway.setup is None:
        return {}
    config, table = gateway.setup.config, gateway.setup.table
    now, breaks = gateway.clock.monotonic(), gateway.engine.breaks
    usual = config.priority_class(None).name
    found = {}
    for name in table.deployments:
        pool = table.pool(name) or ()
        left = [brk.remaining(now) for b in pool if (brk := breaks.on(b, now, usual)) is not None]
        if len(left) == len(pool):
            found[name] = min(left, default=0.0)
    return found


def _empty_pools(gateway: Gateway) -> Iterator[Trouble]:
    for name, seconds in empty_pools(gateway).items():
        if gateway.setup is not None and not gateway.setup.table.pool(name):
            yield Trouble("pool_empty", f"{name} has no backend: all of them are switched off")
        else:
            yield Trouble("pool_empty", f"{name} has no backend for the next {seconds:.0f} s")


def _failing(gateway: Gateway) -> Iterator[Trouble]:
    gateway.catch_up()
    configured = gateway.setup.table.deployments if gateway.setup is not None else ()
    for name in gateway.failing.names(gateway.clock.monotonic()):
        # Where all names are passed on, a client may have made it up.
        public = "" if name in configured else "a deployment fails: its backends answer no call"
        yield Trouble("failing", f"{name} fails: its backends answer no call", public)


def _sinks(gateway: Gateway) -> Iterator[Trouble]:
    now = gateway.clock.monotonic()
    for sink in gateway.sinks:
        why = sink.trouble(now)
        if why:
            yield Trouble(
                "sink",
                f"usage records to {sink.name}: {why}; {sink.dropped} are lost",
                "usage records are lost",
            )


def _expiries(gateway: Gateway) -> Iterator[Trouble]:
    now = gateway.unix_time()
    for name, end in gateway.expiries.items():
        if name not in OWN:
            continue  # A client's key is the client's trouble; the page lists it, and there is a metric.
        if end <= now:
            yield Trouble("expiry", f"{name} has expired")
        elif end - now <= EXPIRES_SOON_SECONDS:
            yield Trouble("expiry", f"{name} expires in {(end - now) / 86_400:.0f} days")


def _shared_state(gateway: Gateway) -> Iterator[Trouble]:
    if gateway.state.degraded_since is not None:
        yield Trouble("shared_state", "the shared counters are out of reach: this process counts alone")


def _configuration(gateway: Gateway) -> Iterator[Trouble]:
    if gateway.config_errors:
        yield Trouble("configuration", "the configuration file has errors; the last good one is in force")
