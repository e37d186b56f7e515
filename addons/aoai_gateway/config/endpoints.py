"""Where requests go, as frozen models: endpoints, virtual deployments, standins, simulated endpoints."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from aoai_gateway.config.credentials import Auth, EndpointKey, Identity, KeySource, Source, written
from aoai_gateway.config.fields import (
    DISTINCT,
    Amount,
    Count,
    DeploymentName,
    ExistingFile,
    Fraction,
    HeaderPattern,
    Model,
    Name,
    Seconds,
    Url,
    split_url,
)


class Timeouts(Model):
    """Time limits towards an endpoint."""

    connect: Seconds = 15
    """Seconds to open a connection."""
    read: Seconds | None = None
    """Seconds to wait for a non-streaming answer, if the client names no time of its own; 600 if not set."""
    write: Seconds | None = None
    """Of PowerProxy; accepted, without meaning here."""
    pool: Seconds | None = None
    """Of PowerProxy; accepted, without meaning here."""


class ConnectionLimits(Model):
    """PowerProxy's connection pool; accepted, without meaning here."""

    max_connections: Amount | None = None
    """Of PowerProxy; accepted, without meaning here."""
    max_keepalive_connections: Amount | None = None
    """Of PowerProxy; accepted, without meaning here."""
    keepalive_expiry: Amount | None = None
    """Of PowerProxy; accepted, without meaning here."""


class Connections(Model):
    """How the gateway connects to an endpoint."""

    timeouts: Timeouts = Timeouts()
    """Time limits towards the endpoint."""
    opened_ahead: Annotated[int, Field(ge=0, le=32)] = 8
    """Connections with TLS, at most, that are opened before calls need them, if they did of late."""
    limits: ConnectionLimits = ConnectionLimits()
    """Of PowerProxy; accepted, without meaning here."""


class Standin(Model):
    """A real deployment at an endpoint that can serve a virtual deployment."""

    name: DeploymentName
    """The name of the deployment at the endpoint."""
    enabled: bool = True
    """`false` takes the standin out of every pool."""
    non_streaming_fraction: Fraction = 1
    """The chance, 0 to 1, that it takes a non-streaming call that reaches it; 1 for the last standin."""
    tokens_per_minute: Count | None = None
    """Its capacity in tokens per minute: a call that is larger is not sent there."""
    requests_per_minute: Count | None = None
    """Its capacity in requests per minute."""
    provisioned: bool = False
    """`true` for provisioned throughput (PTU): a bucket that drains. Calls spill to the other standins."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1
    """With the strategy `weighted`: its part of the calls, compared with those of the other standins."""


Strategy = Literal["ordered", "weighted", "most_headroom"]


class Fallback(Model):
    """The virtual deployments that serve a call instead, by the cause for which this one cannot."""

    content_filter: DeploymentName | None = None
    """For a prompt or an answer that the content filter blocked."""
    context_length: DeploymentName | None = None
    """For a prompt that is too long for the model."""
    missing_model: DeploymentName | None = None
    """For calls of which no endpoint has the deployment."""

    def places(self) -> Mapping[str, str]:
        """Return the deployments that are written, by cause."""
        written = ((cause, getattr(self, cause)) for cause in Fallback.model_fields)
        return {cause: deployment for cause, deployment in written if deployment is not None}


class VirtualDeployment(Model):
    """A deployment name that clients ask for, and the standins that serve it at one endpoint."""

    name: DeploymentName
    """The deployment (or model) name that clients send."""
    standins: Annotated[tuple[Standin, ...], Field(min_length=1)]
    """The real deployments behind it, tried in the order written."""
    model: Name | None = None
    """The model that it runs, for counting tokens: `gpt-4o`, …; learned from the first answers if not set."""
    strategy: Strategy | None = None
    """The first backend: `ordered` (as written; if not set), `weighted` (by lot) or `most_headroom`."""
    fallback: Fallback | None = None
    """Other virtual deployments, by the cause for which this one cannot serve a call; none if not set."""


class SimulatedDeployment(Model):
    """One deployment of a simulated endpoint, with the limits that it enforces."""

    model: Name
    """The model that it answers as."""
    tokens_per_minute: Count | None = None
    """Pay as you go: tokens in a sliding window of 60 s; no limit if not set."""
    requests_per_minute: Count | None = None
    """Pay as you go: requests per minute, enforced in windows of 10 s; 6 per 1,000 tokens if not set."""
    provisioned_tokens_per_minute: Count | None = None
    """Provisioned throughput (PTU): tokens that drain from its bucket per minute; else pay as you go."""
    first_token_seconds: Amount = 0.05
    """Seconds until its first token."""
    tokens_per_second: Amount = 200
    """Tokens per second after the first one; 0 answers at once."""


class SimulatedEndpoint(Model):
    """An endpoint that the gateway plays itself: no Azure account needed."""

    region: Name = "Sweden Central"
    """The `x-ms-region` of its answers."""
    deployments: Annotated[Mapping[DeploymentName, SimulatedDeployment], Field(min_length=1), DISTINCT]
    """Its deployments by name."""
    seed: int = 0
    """Its answers are a function of this number and the prompt."""


class Endpoint(Model):
    """One Azure OpenAI resource: a URL and a credential; or a simulated one."""

    name: Name
    """Its name in logs and headers."""
    url: Url | None = None
    """`https://contoso.openai.azure.com/`; a path (behind API Management) is kept."""
    key: EndpointKey | None = None
    """Its API key; best as `${ENV_VAR}`, or `{file: …}` or `{command: …}` to read it from."""
    auth: Auth | None = None
    """Instead of a key: the identity in Entra ID that the gateway signs in with; `aoai.auth` if absent."""
    enabled: bool = True
    """`false` takes the endpoint out of every pool."""
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

    @cached_property
    def scheme(self) -> str:
        """``https`` or ``http``. This and the next three raise ValueError for a simulator not yet started."""
        return self._parts[0]

    @cached_property
    def host(self) -> str:
        """The host name in lower case, or an IP address without brackets."""
        return self._parts[1]

    @cached_property
    def port(self) -> int:
        """The port, also where the URL names none."""
        return self._parts[2]

    @cached_property
    def path_prefix(self) -> str:
        """What stands before ``/openai/…`` in the path: ``""``, or ``/prefix`` without a slash at its end."""
        return self._parts[3]

    @cached_property
    def written_key(self) -> str | None:
        """Its key, where the configuration itself holds it."""
        return written(self.key)

    @cached_property
    def credential_source(self) -> Source | None:
        """Where its credential comes from, if the configuration does not hold it."""
        return self.auth or (self.key if isinstance(self.key, KeySource) else None)

    @property
    def has_credential(self) -> bool:
        """Whether the gateway has something of its own to show there."""
        return self.key is not None or self.auth is not None

    @property
    def is_open(self) -> bool:
        """Whether it takes every deployment, for want of virtual ones."""
        return not self.virtual_deployments


class Aoai(Model):
    """Where requests go."""

    auth: Auth | None = None
    """The identity in Entra ID that the gateway signs in with at endpoints without a key or auth."""
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    """The Azure OpenAI resources, tried in the order written."""
    trusted_ca: ExistingFile | None = None
    """A PEM file of certificate authorities to trust for the endpoints, besides the usual ones."""
    forward_unknown_paths: bool = True
    """Pass on paths below /openai/v1/ that the gateway does not know; false answers 404 to them."""
    forward_http_header_only_if_name_matches: HeaderPattern | None = None
    """Forward only request headers whose name begins with a match of this pattern; all if not set."""

    @field_validator("endpoints")
    @classmethod
    def _with_the_common_identity(
        cls, endpoints: tuple[Endpoint, ...], info: ValidationInfo
    ) -> tuple[Endpoint, ...]:
        auth: Identity | None = info.data.get("auth")
        if auth is None:
            return endpoints
        return tuple(
            each if each.has_credential or each.simulated else each.model_copy(update={"auth": auth})
            for each in endpoints
        )


class StandinAtEndpoint(NamedTuple):
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
