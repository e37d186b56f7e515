"""What must hold of that by which clients are known: keys, tokens and their issuers, certificates.

No message shows a key.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from aoai_gateway.config.clients import CertificateNames, digest_of
from aoai_gateway.config.fields import is_loopback
from aoai_gateway.config.issuers import TokenClaims, may_both_match
from aoai_gateway.config.models import Client, Config, Endpoint
from aoai_gateway.config.problems import Finding, KeyPath, did_you_mean, listed

ISSUERS: tuple[KeyPath, ...] = (("tokens", "*", "issuer"),)

PUBLIC_KEY = "demo-key"
"""How every client key ends that stands in the shipped files, which are public."""

SHORTEST_KEY = 16
"""Characters. As many hex digits are 64 bits, as much as NIST SP 800-63B (§5.1.2) asks of a secret. Half of
them are found within weeks by a thousand guesses a second."""

BETTER = "`aoai-gateway key new NAME` makes one"


type Claimed = tuple[TokenClaims, Client, KeyPath]


def check_credentials(config: Config) -> Iterator[Finding]:
    """Yield what is wrong with keys, issuers, tokens and certificates, or what the writer should know of."""
    yield from _check_keys(config)
    yield from _check_issuers(config)
    yield from _check_pass_through(config)
    claimed = list(_claimed(config))
    for claims, _, path in claimed:
        yield from _check_claims(config, claims, path)
    yield from _check_ambiguity(claimed)
    yield from _check_certificates(config)


# --- keys: whose they are, and how hard they are to guess --------------------------------------------------


def _check_keys(config: Config) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    by_digest: dict[bytes, str] = {}
    endpoints = {
        digest_of(endpoint.written_key): endpoint
        for endpoint in reversed(config.aoai.endpoints)
        if endpoint.written_key is not None
    }
    for index, client in enumerate(config.clients):
        path: KeyPath = ("clients", index, "key")
        yield from _check_owner(client, path, owners)
        yield from _check_strength(config, client, path)
        digests = {digest_of(key): client.name for key in _keys(client)}
        by_digest |= digests
        yield from _check_endpoints_keys(endpoints, client, digests, ("clients", index))
    yield from _check_hashes(config, by_digest)
    yield from _check_addresses(config)


def _check_owner(client: Client, path: KeyPath, owners: dict[str, str]) -> Iterator[Finding]:
    if not (client.key or client.key_sha256 or client.certificate or client.token) and not (
        client.uses_entra_id_auth
    ):
        yield Finding(path[:-1], '"key" is missing', 'give it a key, or "token:" with claims of its tokens')
    keys = _keys(client)
    for key in keys:
        owner = owners.setdefault(key, client.name)
        if owner != client.name:
            yield Finding(
                path,
                f'the clients "{owner}" and "{client.name}" have the same key',
                "a key must tell who is calling",
            )
    if len(set(keys)) < len(keys):
        yield Finding(path, "the same key stands here twice")


def _check_strength(config: Config, client: Client, path: KeyPath) -> Iterator[Finding]:
    keys = _keys(client)
    real = [each for each in config.aoai.endpoints if each.enabled and each.simulated is None]
    if real and any(key.endswith(PUBLIC_KEY) for key in keys):
        yield Finding(
            path,
            "is the public one of the shipped examples, and opens real endpoints here",
            "give it a key of its own, or keep your file in a folder without these clients",
            fatal=False,
        )
        return
    shortest = min(map(len, keys), default=SHORTEST_KEY)
    if shortest < SHORTEST_KEY and client.enabled and any(map(_is_elsewhere, real)):
        yield Finding(
            path,
            f"has only {shortest} of the {SHORTEST_KEY} characters that make a key hard to guess: a "
            "caller who guesses it gets to the real endpoints here",
            f"write a longer one; {BETTER}",
            fatal=False,
        )


def _check_endpoints_keys(
    endpoints: Mapping[bytes, Endpoint], client: Client, keys: Iterable[bytes], path: KeyPath
) -> Iterator[Finding]:
    """A client that has an endpoint's own key needs no gateway, and is bound by no limit.

    ``endpoints``: those with a written key, by its digest; ``keys``: the digests of the client's.
    """
    if not client.enabled:
        return
    # By digest: where in the client it stands.
    places = {bytes.fromhex(each.sha256): "key_sha256" for each in client.key_sha256}
    places |= dict.fromkeys(keys, "key")
    for digest in places.keys() & endpoints.keys():
        yield Finding(
            (*path, places[digest]),
            f'is the key of the endpoint "{endpoints[digest].name}": its client can call that without the '
            "gateway, past every limit",
            f"give it a key of its own; {BETTER}",
            fatal=False,
        )


def _check_addresses(config: Config) -> Iterator[Finding]:
    """An address is shown where keys are not: in logs, on the status page, in flows."""
    keys = {key for client in config.clients for key in _keys(client)}
    keys |= {endpoint.written_key for endpoint in config.aoai.endpoints if endpoint.written_key is not None}
    keys = {key for key in keys if len(key) >= SHORTEST_KEY}
    for index, endpoint in enumerate(config.aoai.endpoints):
        if endpoint.url is not None and any(key in str(endpoint.url) for key in keys):
            yield Finding(
                ("aoai", "endpoints", index, "url"),
                "holds a key, and addresses are shown in logs and on the status page",
                'a key belongs in "key"',
                fatal=False,
            )


def _is_elsewhere(endpoint: Endpoint) -> bool:
    """Whether other machines than this one can reach it: calls to it may have to be paid for."""
    return endpoint.url is not None and not is_loopback(endpoint.host)


def _keys(client: Client) -> list[str]:
    return [key.get_secret_value() for key in client.key]


def _check_hashes(config: Config, owners: dict[bytes, str]) -> Iterator[Finding]:
    """``owners``: the clients of written keys, by digest."""
    for index, client in enumerate(config.clients):
        for each in client.key_sha256:
            digest = bytes.fromhex(each.sha256)
            if digest in owners:
                whose = "twice" if owners[digest] == client.name else f'at "{owners[digest]}", too'
                yield Finding(("clients", index, "key_sha256"), f"the same key stands here {whose}")
            owners[digest] = client.name


# --- tokens ------------------------------------------------------------------------------------------------


def _check_issuers(config: Config) -> Iterator[Finding]:
    seen: dict[str, set[str]] = defaultdict(set)
    for index, issuer in enumerate(config.tokens):
        both = seen[issuer.issuer] & set(issuer.audience)
        if both:
            yield Finding(
                ("tokens", index, "audience"),
                f"{listed(both)} stands at another entry of this issuer, too: which one would count?",
            )
        seen[issuer.issuer] |= set(issuer.audience)
    if config.tokens and not any(client.token or client.verify for client in config.clients):
        yield Finding(
            ("tokens",),
            "has no effect: no client is known by a token",
            'give a client "token:", such as {appid: …}',
            fatal=False,
            rests_on=(("clients", "*", "token"), ("clients", "*", "verify")),
        )


def _check_pass_through(config: Config) -> Iterator[Finding]:
    first: str | None = None
    for index, client in enumerate(config.clients):
        path: KeyPath = ("clients", index, "uses_entra_id_auth")
        if client.verify is not None and not client.uses_entra_id_auth:
            yield Finding(
                ("clients", index, "verify"),
                "belongs beside uses_entra_id_auth: tokens are always verified where a client names claims",
                "remove it",
            )
        if not (client.enabled and client.uses_entra_id_auth):
            continue
        if first is not None:
            yield Finding(path, f'the client "{first}" has it already, and only one can')
        first = first or client.name
        if client.verify and not config.tokens:
            yield Finding(
                ("clients", index, "verify"),
                "needs to know who issues its tokens",
                'write "tokens:"',
                rests_on=ISSUERS,
            )
        elif client.token and client.verify is False:
            yield Finding(
                (*path[:2], "token"),
                "restricts nothing: tokens are not verified",
                'leave out "verify: false"',
            )
        elif not client.verifies_tokens:
            yield Finding(
                path,
                "everything in the shape of a token counts as this client's, unverified; "
                "whether it is one, Azure alone decides",
                'write "verify: true" and "tokens:" to have them verified here'
                + ("" if client.verify is False else ', or "verify: false" to say that this is meant'),
                fatal=False,
            )


def _claimed(config: Config) -> Iterator[Claimed]:
    for index, client in enumerate(config.clients):
        for claims in client.token:
            yield claims, client, ("clients", index, "token")


def _check_claims(config: Config, claims: TokenClaims, path: KeyPath) -> Iterator[Finding]:
    known = [issuer.issuer for issuer in config.tokens]
    if not known:
        yield Finding(
            path,
            "cannot match: no issuer of tokens is trusted",
            'write "tokens:" with issuer and audience',
            rests_on=ISSUERS,
        )
    elif claims.issuer is not None and claims.issuer not in known:
        yield Finding(
            (*path, "issuer"),
            "is none of the issuers under tokens",
            did_you_mean(claims.issuer, known) or "there are " + listed(known),
            rests_on=ISSUERS,
        )
    elif claims.issuer is None and len(set(known)) > 1:
        yield Finding(
            path,
            "does not say which issuer its tokens come from, and there are several: another one could "
            "name any client",
            f'add "issuer:" with one of {listed(dict.fromkeys(known))}',
            rests_on=ISSUERS,
        )


# --- certificates ------------------------------------------------------------------------------------------


def _check_certificates(config: Config) -> Iterator[Finding]:
    for index, client in enumerate(config.clients):
        names = client.certificate
        if names is None:
            continue
        path: KeyPath = ("clients", index, "certificate")
        if config.listen.client_ca is None:
            yield Finding(
                path,
                "cannot be shown: no authority is trusted",
                'write "client_ca" under "listen"',
                rests_on=(("listen", "client_ca"),),
            )
        if not (names.subject or names.cn or names.san):
            yield Finding(path, "says nothing, so every certificate would do", "write subject, cn or san")
        for other in config.clients[:index]:
            if client.enabled and other.enabled and other.certificate is not None:
                if names == other.certificate:
                    yield Finding(path, f'is that of the client "{other.name}", too')
                elif _may_be_one(names, other.certificate):
                    yield Finding(path, f'may be that of the client "{other.name}", too', fatal=False)


def _may_be_one(one: CertificateNames, other: CertificateNames) -> bool:
    """Whether one certificate is likely to match both: what both of them name does not keep them apart.

    A subject and an alternative name may stand in one certificate, too; that is the exception, and is refused
    at the call.
    """
    pairs = ((one.subject, other.subject), (one.cn, other.cn), (one.san, other.san))
    common = [set(mine) & set(theirs) for mine, theirs in pairs if mine and theirs]
    return bool(common) and all(common)


# --- which client a token means ----------------------------------------------------------------------------


def _check_ambiguity(claimed: list[Claimed]) -> Iterator[Finding]:
    """Two clients must not be meant by one token; what is decided by weight is not ambiguous."""
    by_weight: dict[int, dict[frozenset[str], list[Claimed]]] = defaultdict(lambda: defaultdict(list))
    for each in claimed:
        if each[1].enabled:
            by_weight[each[0].weight][frozenset(each[0].named)].append(each)
    for kinds in by_weight.values():
        names = list(kinds)
        for place, one in enumerate(names):
            for other in names[place:]:
                yield from _overlaps(kinds[one], kinds[other], one & other)


def _overlaps(some: list[Claimed], others: list[Claimed], shared: frozenset[str]) -> Iterator[Finding]:
    """Compare only what has a value of one claim in common: all pairs would take minutes."""
    key = min(shared, default=None)
    by_value: Mapping[str | None, list[Claimed]] = defaultdict(list)
    for each in others:
        for value in each[0].named[key] if key is not None else (None,):
            by_value[value].append(each)
    told: set[tuple[str, str]] = set()
    for claims, client, path in some:
        for value in claims.named[key] if key is not None else (None,):
            for other_claims, other, _ in by_value.get(value, ()):
                pair = (min(client.name, other.name), max(client.name, other.name))
                if client is other or pair in told or not may_both_match(claims, other_claims):
                    continue
                told.add(pair)
                yield Finding(
                    path,
                    f'a token can belong to "{client.name}" and to "{other.name}" alike',
                    "name one more claim at one of them: the client whose claims say more counts",
                )
