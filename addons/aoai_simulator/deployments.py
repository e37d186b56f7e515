"""The simulated deployments of a resource: their models, and the state of their limiters."""

from __future__ import annotations

from collections.abc import Iterable

from aoai_gateway.config.models import SimulatedDeployment
from aoai_simulator import limits, models, replies
from aoai_simulator.limits import PaygLimits, PtuLimits
from aoai_simulator.replies import Whole, json_reply
from aoai_simulator.targets import Target


class Deployment:
    """A deployment and the state of its limiter."""

    def __init__(self, name: str, spec: SimulatedDeployment) -> None:
        self.name = name
        self.spec = spec
        self.snapshot = models.snapshot(spec.model)
        self.limits = limits_of(spec)
        self.state: limits.State = self.limits.empty()

    def admit(self, cost: int, now: float) -> limits.Decision:
        """Let the limiter decide on a call that is estimated at `cost` tokens, and keep what it books."""
        decision, self.state = limits.admit(self.limits, self.state, cost, now)
        return decision


def limits_of(spec: SimulatedDeployment) -> limits.Limits:
    """The limits of a deployment; without a request limit Azure grants 6 per 1,000 tokens per minute."""
    if spec.provisioned_tokens_per_minute is not None:
        return PtuLimits(spec.provisioned_tokens_per_minute)
    tpm, rpm = spec.tokens_per_minute, spec.requests_per_minute
    if rpm is None and tpm is not None:
        rpm = max(1, tpm * 6 // 1000)
    return PaygLimits(tpm, rpm)


def models_of(deployments: Iterable[Deployment], target: Target) -> Whole:
    """List the models available to a resource; as on Azure these are not its deployments."""
    known = sorted({deployment.spec.model for deployment in deployments})
    listed = [{"id": name, "object": "model", "status": "succeeded"} for name in known]
    if target.item is None:
        return json_reply({"data": listed, "object": "list"})
    found = next((model for model in listed if model["id"] == target.item), None)
    return json_reply(found) if found else replies.resource_not_found()
