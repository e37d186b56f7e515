"""Who may issue tokens for clients, and by which of a token's claims a client is known."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from aoai_gateway.config.fields import (
    ExistingFile,
    KeptFile,
    Model,
    Name,
    Names,
    Url,
    fault,
    is_loopback,
    one_or_list,
)

SomeNames = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(one_or_list, json_schema_input_type=Name | list[Name]),
]
"""One name, or a list of which one must match."""

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"""Signatures by a private key that the issuer alone has. ``none`` and shared secrets (HS…) never count."""

_ENTRA = re.compile(
    r"https://(?:login\.microsoftonline\.(?:com|us)|login\.partner\.microsoftonline\.cn)/([^/]+)/v2\.0/?"
    r"|https://sts\.(?:windows\.net|chinacloudapi\.cn)/([^/]+)/",
    re.ASCII,
)
_V1 = {
    "com": "https://sts.windows.net",
    "us": "https://sts.windows.net",
    "cn": "https://sts.chinacloudapi.cn",
}
_V2 = {"net": "https://login.microsoftonline.com", "cn": "https://login.partner.microsoftonline.cn"}

ANY_TENANT = frozenset({"common", "organizations"})
"""What stands in the place of the tenant in the address of an issuer that is for several tenants."""


class Issuer(Model):
    """Who issues tokens that clients may come with."""

    issuer: Url
    """Its address, exactly as its tokens say it in iss; Entra ID's of v2.0 stands for that of v1.0 too."""
    audience: SomeNames
    """What tokens are for: aud must be one of these."""
    tenants: Names = ()
    """Ids of the tenants whose tokens count; all that the issuer speaks for if absent."""
    jwks_uri: Url | None = None
    """Where its public keys are; from its metadata document if absent. http only on this machine."""
    jwks_file: KeptFile | None = None
    """Instead, a file with its public keys (a JSON Web Key Set); read again when it changes."""
    algorithms: Annotated[
        tuple[Algorithm, ...],
        Field(min_length=1),
        BeforeValidator(one_or_list, json_schema_input_type=Algorithm | list[Algorithm]),
    ] = ("RS256",)
    """How its tokens are signed."""
    leeway_seconds: Annotated[float, Field(ge=0, le=600)] = 60
    """By how much its clock may differ from this machine's."""
    trusted_ca: ExistingFile | None = None
    """A PEM file of certificate authorities to trust for its metadata and keys, besides the usual ones."""

    @field_validator("issuer", "jwks_uri")
    @classmethod
    def _by_https(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://x")
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise fault("does not begin with https://", "keys that come by http could be forged")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.jwks_uri is not None and self.jwks_file is not None:
            raise fault("has both jwks_uri and jwks_file", "write one of them")
        if self.tenant in ANY_TENANT and not self.tenants:
            raise fault(
                "speaks for every tenant there is, and would let all of them in",
                'write the tenants whose tokens count under "tenants"',
            )
        return self

    @property
    def tenant(self) -> str | None:
        """The tenant in the address of an issuer of Entra ID; None for others."""
        match = _ENTRA.fullmatch(self.issuer)
        return (match[1] or match[2]) if match else None

    def addresses(self, tenant: str = "") -> tuple[str, ...]:
        """Return what its tokens may say in iss. ``tenant``: theirs, for an issuer that is for several.

        Source: Microsoft identity platform, access token claims reference (iss of v1.0 and v2.0 tokens).
        """
        own = self.tenant
        if own is None:
            return (self.issuer,)
        host = urlsplit(self.issuer).hostname or ""
        end = host.rpartition(".")[2]
        v1, v2 = _V1.get(end, _V1["com"]), f"https://{host}"
        if host.startswith("sts."):
            v1, v2 = v2, _V2.get(end, _V2["net"])
        named = tenant if own in ANY_TENANT else own
        return (f"{v2}/{named}/v2.0", f"{v1}/{named}/")

    @property
    def metadata_address(self) -> str:
        """Where its metadata document is (OpenID Connect Discovery 1.0 §4)."""
        base = self.addresses(self.tenant or "")[0] if self.tenant else self.issuer
        return base.rstrip("/") + "/.well-known/openid-configuration"


WEIGHTS: Mapping[str, int] = {
    "oid": 64,
    "sub": 64,
    "appid": 32,
    "roles": 16,
    "groups": 8,
    "tid": 4,
    "issuer": 1,
}
"""How much each claim narrows down who it is: of the clients that match, the heaviest sum counts."""


class TokenClaims(Model):
    """What a token must say for its sender to be this client; every claim that is named must match."""

    issuer: Url | None = None
    """Its issuer, one of tokens; needed where there are several."""
    appid: SomeNames | None = None
    """The calling application's id: appid in v1.0 tokens, azp in others."""
    oid: SomeNames | None = None
    """The user's or service principal's object id."""
    sub: SomeNames | None = None
    """The subject: system:serviceaccount:namespace:name from Kubernetes."""
    tid: SomeNames | None = None
    """The tenant's id."""
    roles: SomeNames | None = None
    """Application roles, of which the token holds one."""
    groups: SomeNames | None = None
    """Groups, of which the token holds one."""

    @model_validator(mode="before")
    @classmethod
    def _azp(cls, data: Any) -> Any:
        if isinstance(data, dict) and "azp" in data:
            if "appid" in data:
                raise fault("has both appid and azp, which are the same", "write appid")
            data = {**data, "appid": data["azp"]}
            del data["azp"]
        return data

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """The claims that are named, with the values of which one must match."""
        values = {name: getattr(self, name) for name in WEIGHTS}
        return {
            name: (value,) if isinstance(value, str) else value
            for name, value in values.items()
            if value is not None
        }

    @property
    def weight(self) -> int:
        """How much it narrows down who it is."""
        return sum(WEIGHTS[name] for name in self.named)


TokenClaimsList = Annotated[
    tuple[TokenClaims, ...],
    BeforeValidator(
        lambda value: value if isinstance(value, list | tuple) else (value,),
        json_schema_input_type=TokenClaims | list[TokenClaims],
    ),
]
"""One set of claims, or several of which one must match."""


def may_both_match(one: TokenClaims, other: TokenClaims) -> bool:
    """Return whether a token can match both; two roles that differ can be held at once, but need not be."""
    first, second = one.named, other.named
    return all(set(values) & set(second[name]) for name, values in first.items() if name in second)
