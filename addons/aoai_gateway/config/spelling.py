"""One spelling for each deployment: Azure does not tell ``GPT-4o`` from ``gpt-4o``, so we do not either.

The configuration is brought to one spelling when it is loaded, and what clients ask for when it comes in.
Everything between compares names as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from aoai_gateway.config.endpoints import Aoai, Endpoint, VirtualDeployment
from aoai_gateway.config.patterns import is_pattern
from aoai_gateway.config.policies import LIMITS, TOTAL, Policy


class Spellings:
    """The spelling of each deployment's name: the one in which it was seen first."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, name: str) -> str:
        """Return the spelling of a name; its own, if it is a new one."""
        return self._known.setdefault(name.lower(), name)

    def of(self, name: str) -> str:
        """Return the spelling of a name; its own, if it is not known."""
        return self._known.get(name.lower(), name)

    def policy[P: Policy](self, policy: P) -> P:
        """Return a policy in which all names of deployments have their one spelling."""
        changes: dict[str, Any] = {}
        if policy.deployments_allowed is not None:
            changes["deployments_allowed"] = tuple(
                name if is_pattern(name) else self.learn(name) for name in policy.deployments_allowed
            )
        for key, _ in (pair for keys in LIMITS.values() for pair in keys):
            limits = getattr(policy, key)
            if isinstance(limits, Mapping):
                changes[key] = self._keys(limits)
        if policy.request_limits is not None:
            deployments = self._keys(policy.request_limits.deployments)
            changes["request_limits"] = _with(policy.request_limits, deployments=deployments)
        if policy.when_exceeded is not None and policy.when_exceeded.deployment is not None:
            other = self.learn(policy.when_exceeded.deployment)
            changes["when_exceeded"] = _with(policy.when_exceeded, deployment=other)
        return _with(policy, **changes)

    def _keys[T](self, by_name: Mapping[str, T]) -> dict[str, T]:
        return {
            name if name == TOTAL or is_pattern(name) else self.learn(name): value
            for name, value in by_name.items()
        }


def spellings(aoai: Aoai, policies: Iterable[Policy] = ()) -> Spellings:
    """Return the spelling of all virtual deployments, and of other names that policies hold."""
    known = Spellings()
    for endpoint in aoai.endpoints:
        for virtual in endpoint.virtual_deployments:
            known.learn(virtual.name)
    for policy in policies:
        known.policy(policy)
    return known


def one_spelling(aoai: Aoai) -> Aoai:
    """Return endpoints in which each virtual deployment and each standin has one spelling."""
    known = Spellings()
    return _with(aoai, endpoints=tuple(_endpoint(known, endpoint) for endpoint in aoai.endpoints))


def _endpoint(known: Spellings, endpoint: Endpoint) -> Endpoint:
    real = Spellings()
    for name in endpoint.simulated.deployments if endpoint.simulated is not None else ():
        real.learn(name)
    virtual = tuple(_virtual(known, real, each) for each in endpoint.virtual_deployments)
    return _with(endpoint, virtual_deployments=virtual)


def _virtual(known: Spellings, real: Spellings, virtual: VirtualDeployment) -> VirtualDeployment:
    standins = tuple(_with(standin, name=real.learn(standin.name)) for standin in virtual.standins)
    changes: dict[str, Any] = {"name": known.learn(virtual.name), "standins": standins}
    if virtual.fallback is not None:
        places = {cause: known.learn(name) for cause, name in virtual.fallback.places().items()}
        changes["fallback"] = _with(virtual.fallback, **places)
    return _with(virtual, **changes)


def _with[M: BaseModel](model: M, **changes: Any) -> M:
    """Return a copy with the changes; the model itself, if they are none."""
    different = {key: value for key, value in changes.items() if getattr(model, key) != value}
    return model.model_copy(update=different) if different else model
