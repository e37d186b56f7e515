"""The configuration as frozen models: what the rest of the gateway reads.

Units are in the names; every time is in seconds, as a float. ``enabled: false`` stays visible here;
the views of :class:`Config` (``pool``, ``client_for_key``, …) leave out what is switched off.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from aoai_gateway.config.fields import (
    Amount,
    Count,
    DeploymentName,
    DeploymentNames,
    ExistingFile,
    Fraction,
    HeaderPattern,
    Key,
    Keys,
    LogTarget,
    Name,
    PerDeployment,
    Seconds,
    Url,
    split_url,
)


class Model(BaseModel):
    """The base of all models: frozen, unknown keys refused, inputs (they may be secret) never shown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def but(self, **changes: Any) -> Self:
        """Return a copy with the changes, validated; nothing that was derived from old values is copied."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(fields | changes)


class Timeouts(Model):
    """Time limits towards an endpoint."""

    connect: Seconds = 15
    """Seconds to open a connection."""
    read: Seconds | None = None
    """Seconds to wait for a non-streaming answer; without it the client's own time-out counts, else 600."""
    write: Seconds | None = None
    """Accepted for PowerProxy's sake; has no meaning here."""
    pool: Seconds | None = None
    """Accepted for PowerProxy's sake; has no meaning here."""


class ConnectionLimits(Model):
    """PowerProxy's connection pool; accepted, without meaning here."""

    max_connections: Amount | None = None
    """Accepted for PowerProxy's sake; has no meaning here."""
    max_keepalive_connections: Amount | None = None
    """Accepted for PowerProxy's sake; has no meaning here."""
    keepalive_expiry: Amount | None = None
    """Accepted for PowerProxy's sake; has no meaning here."""


class Connections(Model):
    """How the gateway connects to an endpoint."""

    timeouts: Timeouts = Timeouts()
    """Time limits towards the endpoint."""
    limits: ConnectionLimits = ConnectionLimits()
    """Accepted for PowerProxy's sake; has no meaning here."""


class Standin(Model):
    """A real deployment at an endpoint that can serve a virtual deployment."""

    name: DeploymentName
    """The name of the deployment at the endpoint."""
    enabled: bool = True
    """false takes the standin out of every pool."""
    non_streaming_fraction: Fraction = 1
    """The chance (0 to 1) that it takes a non-streaming request that reaches it; 1 for the last in line."""
    tokens_per_minute: Count | None = None
    """Its capacity in tokens per minute, if known."""
    requests_per_minute: Count | None = None
    """Its capacity in requests per minute, if known."""
    provisioned: bool = False
    """true for provisioned throughput (PTU), false for pay as you go."""


class VirtualDeployment(Model):
    """A deployment name that clients ask for, and the standins that serve it at one endpoint."""

    name: DeploymentName
    """The deployment (or model) name that clients send."""
    standins: Annotated[tuple[Standin, ...], Field(min_length=1)]
    """The real deployments behind it, tried in the order written."""
    model: Name | None = None
    """The model that it runs, for counting tokens: gpt-4o, text-embedding-3-small, …"""


class SimulatedDeployment(Model):
    """One deployment of a simulated endpoint, with the limits that it enforces."""

    model: Name
    """The model that it answers as."""
    tokens_per_minute: Count | None = None
    """Pay as you go: tokens in a sliding window of 60 s; no limit if absent."""
    requests_per_minute: Count | None = None
    """Pay as you go: requests per minute, enforced in windows of 10 s; 6 per 1,000 tokens if absent."""
    provisioned_tokens_per_minute: Count | None = None
    """Provisioned throughput (PTU): tokens per minute at which its bucket drains; pay as you go if absent."""
    first_token_seconds: Amount = 0.05
    """Seconds until its first token."""
    tokens_per_second: Amount = 200
    """Speed after the first token; 0 answers at once."""


class SimulatedEndpoint(Model):
    """An endpoint that the gateway plays itself: no Azure account needed."""

    region: Name = "Sweden Central"
    """What its answers carry in x-ms-region."""
    deployments: Annotated[Mapping[DeploymentName, SimulatedDeployment], Field(min_length=1)]
    """Its deployments by name."""
    seed: int = 0
    """Its answers are a function of this number and the prompt."""


class Endpoint(Model):
    """One Azure OpenAI resource: a URL and a credential; or a simulated one."""

    name: Name
    """How the gateway calls it, in logs and headers."""
    url: Url | None = None
    """https://contoso.openai.azure.com/; a path (behind API Management) is kept."""
    key: Key | None = None
    """Its API key; best as ${ENV_VAR}."""
    enabled: bool = True
    """false takes the endpoint out of every pool."""
    non_streaming_fraction: Fraction = 1
    """As for a standin; counts for an endpoint without virtual deployments."""
    virtual_deployments: tuple[VirtualDeployment, ...] = ()
    """What it serves; an endpoint without any takes every deployment."""
    connections: Connections = Connections()
    """Time limits towards it."""
    simulated: SimulatedEndpoint | None = None
    """Instead of url and key: the gateway plays this endpoint itself."""

    @cached_property
    def _parts(self) -> tuple[str, str, int, str]:
        if self.url is None:
            raise ValueError(f"endpoint {self.name!r} is simulated: it has no address until it is started")
        parts = split_url(self.url)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return parts.scheme, parts.hostname, port, parts.path.rstrip("/")

    @property
    def scheme(self) -> str:
        """``https`` or ``http``. This and the next three raise ValueError for a simulator not yet started."""
        return self._parts[0]

    @property
    def host(self) -> str:
        """The host name in lower case, or an IP address without brackets."""
        return self._parts[1]

    @property
    def port(self) -> int:
        """The port, also where the URL names none."""
        return self._parts[2]

    @property
    def path_prefix(self) -> str:
        """What stands before ``/openai/…`` in the path: ``""``, or ``/prefix`` without a slash at its end."""
        return self._parts[3]

    @property
    def is_open(self) -> bool:
        """Whether it takes every deployment, for want of virtual ones."""
        return not self.virtual_deployments


class Aoai(Model):
    """Where requests go."""

    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    """The Azure OpenAI resources, tried in the order written."""
    trusted_ca: ExistingFile | None = None
    """A PEM file of certificate authorities to trust for the endpoints, besides the usual ones."""
    forward_http_header_only_if_name_matches: HeaderPattern | None = None
    """Forward only request headers whose name matches this regular expression; by default, all."""


class Client(Model):
    """A consumer, identified by a key or by its Entra ID token."""

    name: Name
    """How the gateway calls it, in logs and records."""
    description: str = ""
    """For people."""
    key: Keys = ()
    """Its API key, or a list of them while one is rotated; best as ${ENV_VAR}."""
    uses_entra_id_auth: bool = False
    """true for the one client that stands for everybody who comes with an Entra ID token."""
    enabled: bool = True
    """false locks the client out."""
    priority: Name | None = None
    """Its class: critical, standard, batch, …"""
    deployments_allowed: DeploymentNames | None = None
    """What it may use: "a, b" or a list; everything if absent."""
    max_tokens_per_minute_in_k: PerDeployment | None = None
    """Thousands of tokens per minute: one number, or one per virtual deployment."""
    max_requests_per_minute: PerDeployment | None = None
    """Requests per minute: one number, or one per virtual deployment."""


class Listen(Model):
    """Where clients reach the gateway."""

    host: Name = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port; 0 takes a free one."""
    certificate: ExistingFile | None = None
    """A PEM file with the gateway's certificate chain (and key, if private_key is absent): serves https."""
    private_key: ExistingFile | None = None
    """A PEM file with the certificate's private key."""


class Limits(Model):
    """The sizes that a request may have."""

    header_kb: Count = 64
    """Kilobytes (1,024 bytes) of a request's head."""
    body_mb: Count = 100
    """Megabytes (1,024 kilobytes) of a request's body."""


class Replay(Model):
    """How long and how often one call is sent again."""

    max_attempts: Count = 10
    """Attempts of one call, the first one included."""
    max_seconds: Seconds = 120
    """For all attempts of one call together."""
    first_byte_seconds: Seconds = 30
    """Until a streaming call's first byte."""
    idle_seconds: Seconds = 120
    """Between two chunks of an answer."""
    preamble_seconds: Seconds = 20
    """For how long the beginning of a stream is held back to see whether a refusal follows."""
    preamble_kb: Count = 512
    """How many kilobytes of it at most."""
    error_body_kb: Count = 256
    """How much of a failed answer's body is read."""
    error_body_seconds: Seconds = 2
    """For how long."""


class Breaks(Model):
    """For how long a backend is skipped after a failed attempt."""

    default_seconds: Seconds = 10
    """When the backend gave no hint."""
    floor_seconds: Seconds = 0.2
    """At least."""
    ceiling_seconds: Seconds = 60
    """At most, whatever the hint says."""


class Backend(NamedTuple):
    """One (endpoint, standin) pair; the standin is None for an endpoint without virtual deployments."""

    endpoint: Endpoint
    standin: Standin | None

    @property
    def name(self) -> str:
        """``standin@endpoint``, or the endpoint's name."""
        return f"{self.standin.name}@{self.endpoint.name}" if self.standin else self.endpoint.name

    @property
    def non_streaming_fraction(self) -> float:
        """The chance that it takes a non-streaming request that reaches it."""
        return (self.standin or self.endpoint).non_streaming_fraction


class Config(Model):
    """The one merged document: ``gateway.yaml`` and ``policies/*.yaml``."""

    aoai: Aoai
    """Where requests go."""
    clients: tuple[Client, ...] = ()
    """Who may send."""
    listen: Listen = Listen()
    """Where clients reach the gateway."""
    limits: Limits = Limits()
    """The sizes that a request may have."""
    replay: Replay = Replay()
    """How long and how often one call is sent again."""
    breaks: Breaks = Breaks()
    """For how long a backend is skipped after a failed attempt."""
    usage_log: LogTarget | None = None
    """Where one JSON line per finished call goes: stdout, or the path of a file."""
    drain_seconds: Amount = 30
    """How long running calls may take to finish when the gateway is stopped."""

    @cached_property
    def _clients_by_digest(self) -> dict[bytes, Client]:
        return {
            _digest(key.get_secret_value()): client
            for client in self.clients
            if client.enabled
            for key in client.key
        }

    def client_for_key(self, key: str) -> Client | None:
        """Return the enabled client that has this key.

        What is compared is a digest, so the time it takes says nothing about how much of a key was right.
        """
        return self._clients_by_digest.get(_digest(key))

    def client_named(self, name: str) -> Client | None:
        """Return the enabled client of this name."""
        return next((client for client in self.clients if client.enabled and client.name == name), None)

    @cached_property
    def entra_client(self) -> Client | None:
        """The enabled client that stands for everybody who comes with an Entra ID token."""
        return next((client for client in self.clients if client.enabled and client.uses_entra_id_auth), None)

    @cached_property
    def virtual_deployments(self) -> Mapping[str, tuple[Backend, ...]]:
        """Every virtual deployment that is written down, in order of first appearance, with its pool.

        Switched-off ones stay, with an empty pool perhaps: they exist, nobody serves them just now.
        """
        names = dict.fromkeys(
            virtual.name for endpoint in self.aoai.endpoints for virtual in endpoint.virtual_deployments
        )
        return {name: tuple(self._backends(name)) for name in names}

    @cached_property
    def open_endpoints(self) -> tuple[Endpoint, ...]:
        """The enabled endpoints without virtual deployments: they take every deployment."""
        return tuple(endpoint for endpoint in self.aoai.endpoints if endpoint.enabled and endpoint.is_open)

    @cached_property
    def open_pool(self) -> tuple[Backend, ...]:
        """The pool for any deployment where there are no virtual ones."""
        return tuple(Backend(endpoint, None) for endpoint in self.open_endpoints)

    def knows(self, deployment: str) -> bool:
        """Say whether clients may ask for this name at all.

        As in PowerProxy: with a virtual deployment anywhere (switched off or not), only virtual ones
        are known; an endpoint without any then serves those, under their own names. Without virtual
        deployments every name is known, and Azure decides.
        """
        return not self.virtual_deployments or deployment in self.virtual_deployments

    def pool(self, deployment: str) -> tuple[Backend, ...]:
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

    @cached_property
    def _models(self) -> dict[str, str]:
        return {
            virtual.name: virtual.model
            for endpoint in self.aoai.endpoints
            for virtual in endpoint.virtual_deployments
            if virtual.model
        }

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

    def _backends(self, deployment: str) -> list[Backend]:
        backends: list[Backend] = []
        for endpoint in self.aoai.endpoints:
            if not endpoint.enabled:
                continue
            if endpoint.is_open:
                backends.append(Backend(endpoint, None))
            for virtual in endpoint.virtual_deployments:
                if virtual.name == deployment:
                    backends += [
                        Backend(endpoint, standin) for standin in virtual.standins if standin.enabled
                    ]
        return backends


def _digest(key: str) -> bytes:
    # surrogatepass: what a client sends as a key may hold anything, and gets its 401 all the same.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
