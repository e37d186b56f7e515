"""The configuration as frozen models: what the rest of the gateway reads.

Units are in the names; every time is in seconds, as a float. ``enabled: false`` stays visible here;
the views of :class:`Config` (``pool``, ``client_for_key``, …) leave out what is switched off.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr, ValidationInfo, field_validator, model_validator

from aoai_gateway.config.clients import Client, Expiring, KnownKey, digest_of
from aoai_gateway.config.endpoints import (
    Aoai,
    Endpoint,
    SimulatedDeployment,
    SimulatedEndpoint,
    Standin,
    StandinAtEndpoint,
    Strategy,
    Timeouts,
    VirtualDeployment,
)
from aoai_gateway.config.fields import (
    Amount,
    DeploymentName,
    KeptFile,
    LogTarget,
    Model,
    Name,
    alone_for,
)
from aoai_gateway.config.issuers import Issuer
from aoai_gateway.config.policies import Group, Policy
from aoai_gateway.config.prices import Price
from aoai_gateway.config.priorities import (
    IMPLICIT,
    Priority,
    PriorityClass,
    with_built_in,
)
from aoai_gateway.config.sections import (
    Admin,
    Breaks,
    Cors,
    Drain,
    Limits,
    Listen,
    Log,
    Replay,
    Workbench,
)
from aoai_gateway.config.shared_store import SharedStore, State, StoreAddress, passwords_of
from aoai_gateway.config.sinks import RecordPrompts, UsageSinks
from aoai_gateway.config.spelling import Spellings, one_spelling, spellings

__all__ = [
    "Admin",
    "Aoai",
    "Client",
    "Config",
    "Cors",
    "Endpoint",
    "Group",
    "Limits",
    "Listen",
    "Log",
    "Model",
    "Policy",
    "Price",
    "Priority",
    "Replay",
    "SimulatedDeployment",
    "SimulatedEndpoint",
    "Standin",
    "StandinAtEndpoint",
    "Timeouts",
    "VirtualDeployment",
]


class Config(Model):
    """The one merged document: ``gateway.yaml`` and ``policies/*.yaml``."""

    aoai: Aoai
    """Where requests go."""
    tokens: tuple[Issuer, ...] = ()
    """Who may issue tokens for clients, Entra ID for instance."""
    groups: tuple[Group, ...] = ()
    """What many clients have in common: tiers, departments, …"""
    clients: tuple[Client, ...] = ()
    """Who may send."""
    state: State = SecretStr("memory")
    """Where quotas and breaks live: `memory`, `redis://user:password@host:6379/0` (`rediss://`: TLS), or the
    keys below, for Sentinels, a Cluster, or certificates of your own."""
    state_prefix: Name = "aoai-gateway"
    """The prefix of the gateway's keys in Redis; gateways with the same one share their budgets."""
    budget_file: KeptFile | None = None
    """With `state: memory`: the file that keeps the spent part of budgets per day and month."""
    affinity_file: KeptFile | None = None
    """With `state: memory`: the file that keeps at which endpoint stored responses, files and threads are; if
    not set, one beside `budget_file` with the suffix `.affinity`."""
    listen: Listen = Listen()
    """Where clients reach the gateway."""
    admin: Admin = Admin()
    """The status page, its JSON, and what can be switched there: on an address of its own."""
    workbench: Annotated[
        Workbench, BeforeValidator(alone_for("enabled"), json_schema_input_type=bool | Workbench)
    ] = Workbench()
    """The page where prompts are read, edited, run and compared; true serves it without mitmweb."""
    log: Log = Log()
    """How ``serve`` writes its log; mitmproxy's tools have options of their own for it."""
    cors: Cors = Cors()
    """Which pages may call the gateway from a browser."""
    limits: Limits = Limits()
    """What clients may ask of the gateway: sizes, times, connections."""
    replay: Replay = Replay()
    """How long and how often one call is sent again."""
    breaks: Breaks = Breaks()
    """For how long a backend is skipped after a failed attempt."""
    priorities: tuple[Priority, ...] = ()
    """Priority classes, highest first; without any, all requests are equal."""
    default_priority: Name | None = None
    """The class of clients without one of their own; the lowest if not set."""
    prices: Mapping[DeploymentName, Price] = {}
    """What tokens cost, by model or virtual deployment, for comparing answers."""
    usage_log: LogTarget | None = None
    """Where one JSON line per finished call goes: `stdout`, or the path of a file."""
    usage_sinks: UsageSinks = UsageSinks()
    """More places for usage records; any number of them at once."""
    record_prompts: RecordPrompts | None = None
    """The clients whose prompts are written down, and the file; not set: no prompts are."""
    drain_seconds: Amount = 30
    """Seconds that running calls may take to finish when the gateway is stopped."""
    drain: Drain = Drain()
    """What it does before that."""

    @model_validator(mode="before")
    @classmethod
    def _built_in_classes(cls, data: Any) -> Any:
        return with_built_in(data) if isinstance(data, dict) else data

    @field_validator("aoai")
    @classmethod
    def _one_spelling(cls, aoai: Aoai) -> Aoai:
        return one_spelling(aoai)

    @field_validator("groups")
    @classmethod
    def _spelled_as_there(cls, groups: tuple[Group, ...], info: ValidationInfo) -> tuple[Group, ...]:
        if "aoai" not in info.data:
            return groups
        known = spellings(info.data["aoai"])
        return tuple(known.policy(group) for group in groups)

    @field_validator("clients")
    @classmethod
    def _within_their_groups(cls, clients: tuple[Client, ...], info: ValidationInfo) -> tuple[Client, ...]:
        """No reader sees a client without its group's rules. ``checks`` tells of unknown groups."""
        groups = {group.name: group for group in info.data.get("groups", ())}
        if "aoai" in info.data:
            known = spellings(info.data["aoai"], groups.values())
            clients = tuple(known.policy(client) for client in clients)
        return tuple(
            client.within(groups[client.group]) if client.group in groups else client for client in clients
        )

    def spelled(self, deployment: str) -> str:
        """Return a deployment's name as the configuration spells it; as it is, if that does not name it."""
        return self._spellings.of(deployment)

    @cached_property
    def _spellings(self) -> Spellings:
        return spellings(self.aoai, (*self.groups, *self.clients))

    @property
    def store(self) -> StoreAddress | None:
        """The Redis that counters are shared through; None when they live in memory."""
        if isinstance(self.state, SharedStore):
            return self.state
        url = self.state.get_secret_value()
        return None if url == "memory" else url

    @property
    def affinity_path(self) -> Path | None:
        """The file in which affinity is kept: the one that is written, or one beside the budget file."""
        if self.affinity_file is not None or self.budget_file is None:
            return self.affinity_file
        return self.budget_file.with_suffix(".affinity")

    @cached_property
    def secrets(self) -> frozenset[str]:
        """All keys, tokens and passwords that it holds, those of what is switched off too."""
        found = {key.get_secret_value() for client in self.clients for key in client.key}
        found |= {key for each in self.aoai.endpoints if (key := each.written_key) is not None}
        found |= {token.get_secret_value() for _, token in self.admin.holders()}
        found |= {
            sink.secret.get_secret_value()
            for sink in self.usage_sinks.named().values()
            if sink.secret is not None
        }
        if self.store is not None:
            found.update(passwords_of(self.store))
        return frozenset(found)

    @cached_property
    def derived(self) -> dict[object, Any]:
        """A place for what is computed of this configuration once; it goes when the configuration goes."""
        return {}

    @cached_property
    def known_keys(self) -> Mapping[bytes, KnownKey]:
        """The keys of enabled clients, by digest (`digest_of`).

        So the time that a comparison takes says nothing about how much of a key was right.
        """
        return {
            digest: KnownKey(client, end.timestamp() if end is not None else None, bool(client.key_sha256))
            for client in self.clients
            if client.enabled
            for digest, end in client.digests()
        }

    def client_for_key(self, key: str) -> Client | None:
        """Return the enabled client that has this key, expired or not."""
        found = self.known_keys.get(digest_of(key))
        return found.client if found is not None else None

    def expiring(self) -> Iterator[Expiring]:
        """Iterate over the keys of enabled clients that end at a date."""
        for client in self.clients:
            if client.enabled:
                yield from client.expiring()

    def client_named(self, name: str) -> Client | None:
        """Return the enabled client of this name."""
        return next((client for client in self.clients if client.enabled and client.name == name), None)

    @cached_property
    def entra_client(self) -> Client | None:
        """The enabled client to which all calls with an Entra ID token belong."""
        return next((client for client in self.clients if client.enabled and client.uses_entra_id_auth), None)

    @cached_property
    def virtual_deployments(self) -> Mapping[str, tuple[StandinAtEndpoint, ...]]:
        """Every virtual deployment that is written down, in order of first appearance, with its pool.

        Switched-off ones stay, with an empty pool perhaps: they exist, and no backend serves them just now.
        """
        names = dict.fromkeys(virtual.name for _, virtual in self.virtual_places())
        return {name: tuple(self._backends(name)) for name in names}

    def virtual_places(self) -> Iterator[tuple[tuple[str | int, ...], VirtualDeployment]]:
        """Iterate over the virtual deployments as they are written at endpoints, each with its path."""
        for index, endpoint in enumerate(self.aoai.endpoints):
            for number, virtual in enumerate(endpoint.virtual_deployments):
                yield ("aoai", "endpoints", index, "virtual_deployments", number), virtual

    @cached_property
    def open_endpoints(self) -> tuple[Endpoint, ...]:
        """The enabled endpoints without virtual deployments: they take every deployment."""
        return tuple(endpoint for endpoint in self.aoai.endpoints if endpoint.enabled and endpoint.is_open)

    @cached_property
    def open_pool(self) -> tuple[StandinAtEndpoint, ...]:
        """The pool for any deployment where there are no virtual ones."""
        return tuple(StandinAtEndpoint(endpoint, None) for endpoint in self.open_endpoints)

    def knows(self, deployment: str) -> bool:
        """Return whether clients may ask for this name at all.

        As in PowerProxy: with a virtual deployment anywhere (switched off or not), only virtual ones
        are known; an endpoint without any then serves those, under their own names. Without virtual
        deployments every name is known, and Azure decides.
        """
        return not self.virtual_deployments or deployment in self.virtual_deployments

    def pool(self, deployment: str) -> tuple[StandinAtEndpoint, ...]:
        """Return the enabled backends for a deployment in the order written; empty for an unknown one.

        A backend without a standin is an endpoint without virtual deployments: the request goes there
        with the deployment name that the client sent.
        """
        if not self.virtual_deployments:
            return self.open_pool
        return self.virtual_deployments.get(deployment, ())

    def model_of(self, deployment: str) -> str | None:
        """Return the model that a virtual deployment runs, if it was written down."""
        return self._models.get(deployment)

    def price_of(self, deployment: str, model: str | None = None) -> Price | None:
        """Return the price of a virtual deployment's tokens, or of the model that answered there.

        A dated model has the price of its name: ``gpt-4o-2024-11-20`` that of ``gpt-4o``.
        """
        prices = self._prices
        if not prices:
            return None
        found = prices.get(deployment.lower()) or prices.get((self.model_of(deployment) or "").lower())
        if found is None and model is not None:
            found = prices.get(model.lower()) or prices.get(_VERSION.sub("", model).lower())
        return found

    @cached_property
    def _prices(self) -> Mapping[str, Price]:
        return {name.lower(): price for name, price in self.prices.items()}

    @cached_property
    def _models(self) -> dict[str, str]:
        return {virtual.name: virtual.model for _, virtual in self.virtual_places() if virtual.model}

    def strategy_of(self, deployment: str) -> Strategy:
        """Return how the backends of a deployment are ordered; any of its endpoints may say it."""
        return self._strategies.get(deployment, "ordered")

    @cached_property
    def _strategies(self) -> dict[str, Strategy]:
        return {virtual.name: virtual.strategy for _, virtual in self.virtual_places() if virtual.strategy}

    @cached_property
    def priority_classes(self) -> tuple[PriorityClass, ...]:
        """All classes, highest first; never empty."""
        lengths = self.breaks.lengths
        if not self.priorities:
            return (PriorityClass(IMPLICIT, 0, lengths),)
        return tuple(each.resolved(rank, lengths) for rank, each in enumerate(self.priorities))

    @cached_property
    def classes_above(self) -> tuple[tuple[str, ...], ...]:
        """The names of the classes above one, by its rank."""
        names = tuple(cls.name for cls in self.priority_classes)
        return tuple(names[:rank] for rank in range(len(names)))

    @cached_property
    def minimum_shares(self) -> Mapping[str, float]:
        """The share of the places in a queue that come free which each class gets at least, by name."""
        return {cls.name: cls.minimum_share for cls in self.priority_classes}

    def priority_class(self, name: str | None) -> PriorityClass:
        """Return the class of this name; for None, the class of clients that name none.

        Without priorities every name means the one class that there is.

        :raises KeyError: there are priorities, and none of this name.
        """
        if not self.priorities:
            return self.priority_classes[0]
        wanted = self.default_priority if name is None else name
        return self.priority_classes[-1] if wanted is None else self._classes_by_name[wanted]

    @cached_property
    def _classes_by_name(self) -> Mapping[str, PriorityClass]:
        return {cls.name: cls for cls in self.priority_classes}

    @property
    def simulated_endpoints(self) -> Mapping[str, SimulatedEndpoint]:
        """The enabled endpoints, by name, that the gateway plays itself."""
        return {
            endpoint.name: endpoint.simulated
            for endpoint in self.aoai.endpoints
            if endpoint.enabled and endpoint.simulated
        }

    def with_simulators(self, urls: Mapping[str, str], keys: Mapping[str, str]) -> "Config":
        """Return this configuration with the addresses and keys, by name, of started simulators filled in."""
        endpoints = tuple(
            endpoint.but(url=urls[endpoint.name], key=keys[endpoint.name])
            if endpoint.name in urls
            else endpoint
            for endpoint in self.aoai.endpoints
        )
        return self.but(aoai=self.aoai.but(endpoints=endpoints))

    def _backends(self, deployment: str) -> list[StandinAtEndpoint]:
        backends: list[StandinAtEndpoint] = []
        for endpoint in self.aoai.endpoints:
            if not endpoint.enabled:
                continue
            if endpoint.is_open:
                backends.append(StandinAtEndpoint(endpoint, None))
            for virtual in endpoint.virtual_deployments:
                if virtual.name == deployment:
                    backends += [
                        StandinAtEndpoint(endpoint, standin)
                        for standin in virtual.standins
                        if standin.enabled
                    ]
        return backends


_VERSION = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{4})$", re.ASCII)
"""What ends a model's name when it says which one exactly: gpt-4o-2024-11-20, gpt-35-turbo-0125."""
