"""Switches by hand: an overlay over the configuration's ``enabled``, at run time.

It is kept by name, so it survives a reload of the file, and holds for an entry that comes back under the same
name. A switch cannot turn on an entry that the file switches off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from aoai_gateway.config.endpoints import Endpoint, StandinAtEndpoint
from aoai_gateway.config.models import Client, Config

type Kind = Literal["endpoint", "standin", "client"]

KINDS: tuple[Kind, ...] = get_args(Kind.__value__)


class UnknownNameError(LookupError):
    """The configuration has nothing of this kind and name; the message lists the names it has."""


@dataclass(slots=True)
class Switches:
    """The entries that are off by hand. A standin is named as a backend is: ``standin@endpoint``."""

    off: dict[Kind, set[str]] = field(default_factory=lambda: {kind: set() for kind in KINDS})

    def __contains__(self, named: tuple[Kind, str]) -> bool:
        kind, name = named
        return name in self.off[kind]

    def __iter__(self) -> Iterator[tuple[Kind, str]]:
        return ((kind, name) for kind, names in self.off.items() for name in sorted(names))

    def set(self, kind: Kind, name: str, *, on: bool) -> bool:
        """Switch off, or on again; gives whether that changed anything."""
        names = self.off[kind]
        if (name not in names) == on:
            return False
        if on:
            names.discard(name)
        else:
            names.add(name)
        return True

    def applied(self, config: Config) -> Config:
        """Return the configuration with these entries switched off; itself, if there are none."""
        if not any(self.off.values()):
            return config
        endpoints = tuple(self._endpoint(endpoint) for endpoint in config.aoai.endpoints)
        clients = tuple(self._client(client) for client in config.clients)
        return config.but(aoai=config.aoai.but(endpoints=endpoints), clients=clients)

    def _endpoint(self, endpoint: Endpoint) -> Endpoint:
        if ("endpoint", endpoint.name) in self:
            return endpoint.but(enabled=False)
        if not any(name.endswith(f"@{endpoint.name}") for name in self.off["standin"]):
            return endpoint
        virtual_deployments = tuple(
            virtual.but(
                standins=tuple(
                    standin.but(enabled=False)
                    if ("standin", StandinAtEndpoint(endpoint, standin).name) in self
                    else standin
                    for standin in virtual.standins
                )
            )
            for virtual in endpoint.virtual_deployments
        )
        return endpoint.but(virtual_deployments=virtual_deployments)

    def _client(self, client: Client) -> Client:
        return client.but(enabled=False) if ("client", client.name) in self else client


def enabled_in_file(config: Config, kind: Kind, name: str) -> bool:
    """Return whether the configuration as written has this switched on.

    :raises UnknownNameError: there is nothing of this kind and name.
    """
    known: dict[str, bool] = {}
    for each, enabled in _named(config, kind):
        # A standin may stand in several pools; it is one backend all the same.
        known[each] = known.get(each, False) or enabled
    if name not in known:
        has = ", ".join(known) or "none"
        raise UnknownNameError(f"there is no {kind} {name!r}; the configuration has {has}")
    return known[name]


def _named(config: Config, kind: Kind) -> Iterator[tuple[str, bool]]:
    if kind == "client":
        yield from ((client.name, client.enabled) for client in config.clients)
        return
    for endpoint in config.aoai.endpoints:
        if kind == "endpoint":
            yield endpoint.name, endpoint.enabled
            continue
        for virtual in endpoint.virtual_deployments:
            for standin in virtual.standins:
                yield StandinAtEndpoint(endpoint, standin).name, standin.enabled
