"""Which client a verified token belongs to.

Every claim that a client names must match. Of several clients the one counts whose claims narrow down the
most: the principal, then the application, its roles, its groups, its tenant. If two are left, the token
belongs to no client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.config.issuers import TokenClaims
from aoai_gateway.wire.credential_errors import token_refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aoai_gateway.config.issuers import Issuer
    from aoai_gateway.config.models import Client, Config

type Values = Mapping[str, frozenset[str]]
"""The values of a token's claims, by name."""

IN_ORDER = ("oid", "sub", "appid", "roles", "groups", "tid", "issuer")
"""By the first of these that it names, a set of claims is looked up."""


def values_of(issuer: Issuer, claims: Mapping[str, Any]) -> Values:
    """Return the claims of a verified token, by the names that the configuration knows."""
    return {
        "issuer": frozenset({issuer.issuer}),
        "appid": frozenset(_texts(claims.get("appid") or claims.get("azp"))),
        **{name: frozenset(_texts(claims.get(name))) for name in ("oid", "sub", "tid", "roles", "groups")},
    }


def _texts(value: Any) -> Iterator[str]:
    several = value if isinstance(value, list) else (value,)
    return (each for each in several if isinstance(each, str))


def _kinds_of_tokens(client: Client) -> tuple[TokenClaims, ...]:
    if client.uses_entra_id_auth and client.verify and not client.token:
        return (TokenClaims(),)  # every verified one
    return client.token


class ClientIndex:
    """Finds clients by tokens, however many of them there are."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._by_value: dict[tuple[str, str], list[tuple[TokenClaims, Client]]] = {}
        self._for_all: list[tuple[TokenClaims, Client]] = []
        for client in clients:
            for wanted in _kinds_of_tokens(client) if client.enabled else ():
                named = wanted.named
                first = next((name for name in IN_ORDER if name in named), None)
                if first is None:
                    self._for_all.append((wanted, client))
                for value in named[first] if first is not None else ():
                    self._by_value.setdefault((first or "", value), []).append((wanted, client))

    def find(self, said: Values) -> Client:
        """Return the client that a token belongs to. Raises a 403 if it is no client's, or several
        clients'."""
        best, found = -1, dict[str, "Client"]()
        for wanted, client in self._candidates(said):
            if wanted.weight >= best and all(said[name] & set(v) for name, v in wanted.named.items()):
                if wanted.weight > best:
                    found.clear()
                best = wanted.weight
                found[client.name] = client
        if len(found) > 1:
            raise token_refused("token_client_ambiguous")
        if not found:
            raise token_refused("token_client_unknown")
        return next(iter(found.values()))

    def _candidates(self, said: Values) -> Iterator[tuple[TokenClaims, Client]]:
        yield from self._for_all
        for name, values in said.items():
            for value in values:
                yield from self._by_value.get((name, value), ())


def clients_by_token(config: Config) -> ClientIndex:
    """Return the index of a configuration, which is made once."""
    index = config.derived.get(ClientIndex)
    if index is None:
        index = config.derived[ClientIndex] = ClientIndex(config.clients)
    assert isinstance(index, ClientIndex)
    return index
