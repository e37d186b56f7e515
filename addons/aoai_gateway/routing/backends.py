"""Backends and pools: where a virtual deployment can be served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.config.models import StandinAtEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aoai_gateway.config.models import Config, Endpoint, Standin


class BackendKey(NamedTuple):
    """The key of a backend's state; plain names, so that state survives a reload of the configuration."""

    endpoint: str
    standin: str


@dataclass(frozen=True, slots=True)
class Declared:
    """The limits of a backend in the configuration; None: not declared."""

    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    provisioned: bool = False


NOTHING_DECLARED = Declared()


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """One (endpoint, standin) pair; or, without a standin, an endpoint that takes any deployment."""

    endpoint: Endpoint
    standin: Standin | None
    key: BackendKey
    name: str
    """How it is called in messages, comments and headers: ``gpt-4o-ptu@sweden`` or ``sweden``."""
    non_streaming_fraction: float
    declared: Declared = NOTHING_DECLARED
    provisioned: bool = field(init=False)
    """Whether it is declared as provisioned throughput."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "provisioned", self.declared.provisioned)

    @classmethod
    def of(cls, pair: StandinAtEndpoint) -> Backend:
        """Make a backend of an endpoint and standin as the configuration pairs them."""
        standin = pair.standin
        key = BackendKey(pair.endpoint.name, standin.name if standin else "")
        declared = NOTHING_DECLARED
        if standin is not None:
            declared = Declared(standin.tokens_per_minute, standin.requests_per_minute, standin.provisioned)
        return cls(pair.endpoint, standin, key, pair.name, pair.non_streaming_fraction, declared)

    def deployment(self, asked: str) -> str:
        """Return the name of the real deployment to send to, when the client asked for ``asked``."""
        return asked if self.standin is None else self.standin.name

    def serving(self, asked: str) -> BackendKey:
        """Return the key of the real deployment that serves what the client asked for."""
        return self.key if self.standin is not None else BackendKey(self.key.endpoint, asked)

    def __repr__(self) -> str:
        return f"Backend({self.name})"


type Pool = tuple[Backend, ...]


class RoutingTable:
    """All pools of one configuration, computed when it is loaded."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pools = {name: _pool(pairs) for name, pairs in config.virtual_deployments.items()}
        self._open = _pool(StandinAtEndpoint(endpoint, None) for endpoint in config.open_endpoints)
        self.endpoints = tuple(
            Backend(each, None, BackendKey(each.name, ""), each.name, non_streaming_fraction=1)
            for each in config.aoai.endpoints
            if each.enabled
        )
        """Where a call can be served that is for no deployment."""
        everywhere = [backend for pool in (*self._pools.values(), self._open) for backend in pool]
        # One that is in several pools is the same backend: it has one state, by its key.
        self.backends: Pool = tuple({backend.key: backend for backend in everywhere}.values())

    @property
    def deployments(self) -> tuple[str, ...]:
        """Names of the virtual deployments, in the order in which they were first written."""
        return tuple(self._pools)

    def pool(self, deployment: str) -> Pool | None:
        """Return the backends of a deployment in the order written; None if it is not to be asked for."""
        found = self._pools.get(deployment)
        if found is not None:
            return found
        deployment = self._config.spelled(deployment)
        if not self._config.knows(deployment):
            return None
        return self._pools.get(deployment, self._open)


def _pool(pairs: Iterable[StandinAtEndpoint]) -> Pool:
    return tuple(Backend.of(pair) for pair in pairs)
