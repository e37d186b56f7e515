"""Backends in virtual time: the simulator's limiter, with the sizes that are declared or were observed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_simulator import limits

if TYPE_CHECKING:
    from aoai_gateway.routing.backends import Backend

REQUESTS_PER_1000_TOKENS = 6
"""What Azure grants where only tokens are known."""


ADMITTED = limits.Decision(True, (), 0.0, None, None, None)
"""What a backend without limits says to every call."""


class Deployment:
    """One backend: its limiter and what it has admitted. ``what``: None if nothing limits it."""

    def __init__(self, what: limits.Limits | None) -> None:
        self.limits = what
        self.state = limits.PaygLimits().empty() if what is None else what.empty()

    def admit(self, cost: int, now: float) -> limits.Decision:
        """Decide on a call."""
        if self.limits is None:
            return ADMITTED
        decision, self.state = limits.admit(self.limits, self.state, cost, now)
        return decision

    def settle(self, reservation: limits.Reservation, used: int, now: float) -> None:
        """Correct a booking when its call has ended."""
        assert self.limits is not None
        self.state = limits.settle(self.limits, self.state, reservation, used, now)


def limits_of(backend: Backend, observed: int | None) -> limits.Limits | None:
    """Return a backend's limits: as declared, as simulated, or as observed. None: there are none."""
    standin = backend.standin
    simulated = backend.endpoint.simulated
    spec = simulated.deployments.get(standin.name) if simulated is not None and standin is not None else None
    if spec is not None and spec.provisioned_tokens_per_minute is not None:
        return limits.PtuLimits(spec.provisioned_tokens_per_minute)
    tokens = spec.tokens_per_minute if spec is not None else None
    requests = spec.requests_per_minute if spec is not None else None
    if standin is not None:
        tokens = tokens or standin.tokens_per_minute or observed
        requests = requests or standin.requests_per_minute
        if standin.provisioned and tokens is not None:
            return limits.PtuLimits(tokens)
    if tokens is None and requests is None:
        return None
    if tokens is not None and requests is None:
        requests = max(1, tokens * REQUESTS_PER_1000_TOKENS // 1000)
    return limits.PaygLimits(tokens, requests)
