"""Where processes keep what they share: a Redis or Valkey, alone, behind Sentinels, or as a Cluster."""

import re
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, SecretStr, Tag, model_validator

from aoai_gateway.config.fields import (
    HOST,
    PLACEHOLDER,
    ExistingFile,
    Model,
    Name,
    alone_for,
    comma_list,
    fault,
)

REDIS_PORT = 6379
SENTINEL_PORT = 26379

ANSWER_SECONDS = 1.0
"""Seconds for one decision, connecting included, before Redis counts as gone.

Losing it lets every process spend the whole limit, and costs the calls under way this time once. So it is
long enough not to take a busy event loop for a lost store.
"""

_EXAMPLE = (
    "write memory, or redis://user:password@host:6379/0 (rediss:// for TLS), or a mapping for Sentinels, a "
    "Cluster or certificates"
)


def _url(value: SecretStr) -> SecretStr:
    """Check a store's address, without a word about what it holds: there may be a password in it."""
    text = value.get_secret_value()
    if text == "memory":
        return value
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise fault(
            "is not a URL", f"{_EXAMPLE}; a password's / ? # @ and : are written as %2F and so on"
        ) from None
    if "sentinel" in parts.scheme:
        raise fault(
            "has no form as a URL for Sentinels",
            "write a mapping: sentinel: {master: mymaster, hosts: [sentinel-1:26379]}",
        )
    if "cluster" in parts.scheme:
        raise fault("has no form as a URL for a Cluster", "write a mapping: cluster: [redis-1:6379]")
    if parts.scheme not in {"redis", "rediss"}:
        raise fault("is neither memory nor the URL of a Redis server", _EXAMPLE)
    if not host:
        raise fault("names no host", _EXAMPLE)
    if not re.fullmatch(r"(/\d*)?", parts.path, re.ASCII):
        raise fault("names a database that is not a number", _EXAMPLE)
    if PLACEHOLDER.fullmatch(host) or PLACEHOLDER.fullmatch(unquote(parts.password or "")):
        raise fault("is still a placeholder", _EXAMPLE)
    return value


def _host(value: str) -> str:
    example = "write host, host:port or [::1]:port"
    if "://" in value or "@" in value:
        raise fault("is not a host with a port", f"{example}; the password and tls have keys of their own")
    try:
        parts = urlsplit(f"//{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise fault("is not a host with a port", example) from None
    if not host or parts.path or parts.query or parts.fragment or port == 0:
        raise fault("is not a host with a port", example)
    if PLACEHOLDER.fullmatch(host):
        raise fault("is still a placeholder", example)
    # An underscore is in no name of the DNS, and in the names of Docker's services.
    if not (parts.netloc.startswith("[") or HOST.fullmatch(host.replace("_", "-"))):
        raise fault("names a host that cannot exist", example)
    return value


def _password(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise fault("is empty")
    if PLACEHOLDER.fullmatch(text):
        raise fault("is still a placeholder", "put in the real one, or ${ENV_VAR}")
    return value


StateUrl = Annotated[SecretStr, AfterValidator(_url)]
"""``memory``, or the URL of one Redis server."""

StoreHost = Annotated[str, AfterValidator(_host)]
"""``host``, ``host:port`` or ``[::1]:port``."""

StoreHosts = Annotated[
    tuple[StoreHost, ...],
    BeforeValidator(comma_list, json_schema_input_type=str | list[StoreHost]),
    Field(min_length=1),
]
"""``a:1, b:1`` or a list."""

StorePassword = Annotated[SecretStr, AfterValidator(_password)]


def host_and_port(value: str, port: int) -> tuple[str, int]:
    """Take a `StoreHost` apart; the port is the one given where it names none."""
    parts = urlsplit(f"//{value}")
    assert parts.hostname is not None
    return parts.hostname, parts.port or port


class StoreTls(Model):
    """TLS towards the store."""

    enabled: bool = True
    """`tls: true` is enough with certificates that the system trusts; without `tls` there is no TLS."""
    ca: ExistingFile | None = None
    """A PEM file of authorities that count, too: your own."""
    certificate: ExistingFile | None = None
    """A PEM file with the gateway's own certificate, for a store that asks for one."""
    private_key: ExistingFile | None = None
    """A PEM file with its private key; if not set, the certificate's file holds it, too."""

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        if self.private_key is not None and self.certificate is None:
            raise fault("has a private_key without its certificate")
        return self


class Sentinel(Model):
    """The Sentinels, and what they are asked for."""

    master: Name
    """The name that the Sentinels have for the primary and its replicas: `mymaster`."""
    hosts: StoreHosts
    """The Sentinels, each as `host:port` (26379 if absent); some of them are enough."""
    username: Name | None = None
    """The user at the Sentinels, if they know users."""
    password: StorePassword | None = None
    """The password of the Sentinels, if they ask for one; best as `${ENV_VAR}`."""

    @model_validator(mode="after")
    def _a_user_has_a_password(self) -> Self:
        _check_user(self.username, self.password)
        return self


class SharedStore(Model):
    """A store that a URL cannot describe: one server, Sentinels, or a Cluster; who signs in, and TLS."""

    host: StoreHost | None = None
    """One server, as `host:port` (6379 if absent)."""
    sentinel: Sentinel | None = None
    """A primary and its replicas that Sentinels watch."""
    cluster: StoreHosts | None = None
    """Some nodes of a Cluster, each as `host:port` (6379 if absent); they tell of the others."""
    username: Name | None = None
    """The user at Redis, if it has ACLs."""
    password: StorePassword | None = None
    """The password at Redis; best as `${ENV_VAR}`."""
    database: Annotated[int, Field(ge=0)] = 0
    """The number of the database; a Cluster has the first one alone."""
    tls: Annotated[
        StoreTls, BeforeValidator(alone_for("enabled"), json_schema_input_type=bool | StoreTls)
    ] = StoreTls(enabled=False)
    """TLS, towards the Sentinels as well."""

    answer_seconds: Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)] = ANSWER_SECONDS
    """How long a decision may take, connecting included, before Redis counts as gone. Calls that wait for one
    wait so long then; too short a time takes a slow network for a lost store."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if [self.host, self.sentinel, self.cluster].count(None) != 2:
            raise fault(
                "needs one of host, sentinel and cluster",
                "write sentinel: {master: mymaster, hosts: [sentinel-1:26379]}, or cluster: [redis-1:6379]",
            )
        if self.cluster is not None and self.database:
            raise fault("has a database, and a Cluster has the first one alone", "leave it out")
        _check_user(self.username, self.password)
        return self

    @property
    def address(self) -> str:
        """How it is named to people: neither users nor passwords."""
        scheme = "rediss" if self.tls.enabled else "redis"
        if self.cluster is not None:
            return f"{scheme}+cluster://{','.join(self.cluster)}"
        if self.sentinel is not None:
            hosts = ",".join(self.sentinel.hosts)
            return f"{scheme}+sentinel://{hosts}/{self.sentinel.master}/{self.database}"
        return f"{scheme}://{self.host}/{self.database}"

    @property
    def passwords(self) -> list[str]:
        """All that it holds."""
        found = (self.password, self.sentinel.password if self.sentinel is not None else None)
        return [each.get_secret_value() for each in found if each is not None]


def _check_user(username: str | None, password: SecretStr | None) -> None:
    if username is not None and password is None:
        raise fault("has a username without a password")


type StoreAddress = str | SharedStore
"""Where a store is: a URL, which may hold a password, or what a mapping says."""


def answer_seconds(store: StoreAddress) -> float:
    """Return the seconds that a store has for an answer."""
    return store.answer_seconds if isinstance(store, SharedStore) else ANSWER_SECONDS


def _kind(value: object) -> str:
    return "store" if isinstance(value, dict | SharedStore) else "url"


State = Annotated[
    Annotated[StateUrl, Tag("url")] | Annotated[SharedStore, Tag("store")], Discriminator(_kind)
]
"""``memory``, a URL, or a mapping."""


def shown_address(store: StoreAddress) -> str:
    """Return the part of an address that may be shown: no user, no password.

    Raises ValueError for a URL that is no store's.
    """
    if isinstance(store, SharedStore):
        return store.address
    parts = urlsplit(store)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("state: expected a URL that starts with redis:// or rediss://")
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{parts.port or REDIS_PORT}{parts.path}"


def passwords_of(store: StoreAddress) -> list[str]:
    """Return what must not be shown of an address, in every spelling that it has there."""
    if isinstance(store, SharedStore):
        return store.passwords
    password = urlsplit(store).password
    return [] if password is None else [password, unquote(password)]
