"""What the gateway shows to an endpoint: a key, where a key is read from, or an identity in Entra ID."""

import shlex
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Discriminator, SecretStr, Tag, model_validator

from aoai_gateway.config.fields import KeptFile, Key, Model, Name, Scope, Seconds, fault

IdentityType = Literal["managed_identity", "workload_identity", "azure_cli", "environment", "default"]

COGNITIVE_SERVICES = "https://cognitiveservices.azure.com/.default"
"""The scope of Azure OpenAI's resources; resources of Foundry take it too."""


class Identity(Model):
    """An identity in Entra ID, with which the gateway signs in to endpoints."""

    type: IdentityType
    """This machine's, this pod's, the Azure CLI's, that of AZURE_… variables, or the first found of all."""
    client_id: Name | None = None
    """Which one, where there are several: the client id of a user-assigned identity or of an application."""
    tenant_id: Name | None = None
    """Its tenant, where the surroundings do not say it."""
    scope: Scope = COGNITIVE_SERVICES
    """What the tokens are for."""

    @model_validator(mode="after")
    def _what_belongs_to_the_type(self) -> Self:
        if self.tenant_id is not None and self.type in ("managed_identity", "environment"):
            raise fault(f"has a tenant_id, which {self.type} knows by itself", "leave it out")
        if self.client_id is not None and self.type in ("azure_cli", "environment"):
            raise fault(f"has a client_id, which {self.type} knows by itself", "leave it out")
        return self


class KeySource(Model):
    """Where a key is read from, again and again."""

    file: KeptFile | None = None
    """A file that holds the key and nothing else: a mounted secret. A change counts within two seconds."""
    command: (
        Annotated[
            tuple[Name, ...],
            BeforeValidator(lambda value: _words(value), json_schema_input_type=str | list[str]),
        ]
        | None
    ) = None
    """A program that prints the key, with its arguments; it is started directly, not by a shell."""
    every_seconds: Seconds = 300
    """How often the program is run again."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.file is None) == (self.command is None):
            raise fault("needs either a file or a command", "write {file: /run/secrets/aoai-key}")
        if self.command is not None and not self.command:
            raise fault("has an empty command")
        return self


type Source = Identity | KeySource
"""Where a credential comes from that the configuration does not hold itself."""


def source_name(source: Source) -> str:
    """Name a source, for people."""
    if isinstance(source, Identity):
        return source.type + (f" {source.client_id}" if source.client_id else "")
    if source.file is not None:
        return f"file {source.file}"
    assert source.command is not None
    # Its arguments may be secret.
    return f"command {source.command[0]}"


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError:
        raise fault("is not a command line: a quotation mark is missing") from None


def _key_kind(value: object) -> str:
    return "source" if isinstance(value, dict | BaseModel) else "key"


EndpointKey = Annotated[
    Annotated[Key, Tag("key")] | Annotated[KeySource, Tag("source")], Discriminator(_key_kind)
]
"""A key, or the file or command that it is read from."""


def _typed(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


Auth = Annotated[Identity, BeforeValidator(_typed, json_schema_input_type=IdentityType | Identity)]
"""An identity, or just its type."""


def written(key: SecretStr | KeySource | None) -> str | None:
    """Return a key that the configuration itself holds."""
    return key.get_secret_value() if isinstance(key, SecretStr) else None
